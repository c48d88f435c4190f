"""A trained model's pretrained towers in the layout that they came in, for `transformers` and `sentence-transformers`.

OUT/query, OUT/title and OUT/image each hold config.json, model.safetensors and, for texts, the tokenizer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.config import ImageConfig, ModelConfig, TextConfig, TextSource
from maxsearch.encode import Encoder
from maxsearch.errors import UsageError
from maxsearch.files import directory_in_place, write_json
from maxsearch.manifest import FolderKind, require_replaceable, write_manifest
from maxsearch.model_files import flatten_params, write_arrays
from maxsearch.models.pretrained.architecture import TOWERS
from maxsearch.models.pretrained.layouts import IMAGE, TEXT
from maxsearch.models.pretrained.transforms import to_theirs

HUB = FolderKind(
    name="maxsearch-hub",
    what="Hub export",
    schema_version=1,
    remedy="write it with `maxsearch export --hub`",
    required=(),
    fields={"fingerprint": str},
)
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
PROJECTION = "projection.safetensors"
PREFIX = {"clip": ("text_model.", "vision_model."), "siglip": ("text_model.", "vision_model.")}
MODULES = "sentence_transformers."


def export_hub(encoder: Encoder, out: Path) -> list[str]:
    """Writes every tower of the model that is of a pretrained family.

    Args:
      encoder: the model.
      out: the folder; an older export there is replaced.

    Returns:
      The towers that were written.

    Raises:
      UsageError: the model has none, something else stands at `out`, or a family knows no pictures of its size.
    """
    model = encoder.config.model
    names = [name for name in TOWERS if getattr(model, name).source is not None]
    if not names:
        raise UsageError("no tower of this model is of a pretrained family, so there is none for --hub: use --out")
    configs = {name: hub_config(getattr(model, name), model) for name in names}
    require_replaceable(out, [HUB], flag="--hub")
    flat = flatten_params(encoder.params)
    with directory_in_place(out) as draft:
        for name in names:
            folder, tower = draft / name, getattr(model, name)
            folder.mkdir()
            configs[name].save_pretrained(folder)
            write_arrays(folder / "model.safetensors", tower_arrays(name, tower, flat), {"format": "pt"})
            if isinstance(tower, TextConfig):
                encoder.tokenizer.save_pretrained(folder)
            else:
                write_json(folder / "preprocessor_config.json", preprocessor(tower))
            project = {
                "weight": np.ascontiguousarray(flat[f"{name}_project/kernel"].T),
                "bias": flat[f"{name}_project/bias"],
            }
            if isinstance(tower, TextConfig) and tower.source and tower.source.family not in PREFIX:
                write_sentence_modules(folder, tower, project)
            else:
                write_arrays(folder / PROJECTION, project, {"format": "pt"})
        write_manifest(draft, HUB, {"fingerprint": encoder.fingerprint})
    return names


def tower_arrays(name: str, tower: TextConfig | ImageConfig, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A tower's arrays by the names and in the shapes of its family's files."""
    source = tower.source
    assert source is not None
    text = isinstance(tower, TextConfig)
    layout, patch = (TEXT if text else IMAGE)[source.family], 0 if isinstance(tower, TextConfig) else tower.patch
    prefix = PREFIX[source.family][0 if text else 1] if source.family in PREFIX else ""
    arrays: dict[str, np.ndarray] = {}
    for part in layout.parts(tower.depth):
        path = f"{name}_encoder/{part.ours}"
        if path in flat:
            values = to_theirs(part.kind, flat[path], patch)
            arrays |= {
                prefix + theirs: np.ascontiguousarray(value) for theirs, value in zip(part.theirs, values, strict=True)
            }
    return arrays


def hub_config(tower: TextConfig | ImageConfig, model: ModelConfig) -> Any:
    """The config of `transformers` that builds the tower's architecture.

    Raises:
      UsageError: the family's config has no place for pictures that are not square.
    """
    import transformers as hf

    source = tower.source
    assert source is not None
    shared: dict[str, Any] = {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "intermediate_size": source.hidden,
        "hidden_act": ACTIVATIONS[source.activation],
        "layer_norm_eps": source.epsilon,
    }
    if isinstance(tower, ImageConfig):
        rows, columns = tower.size
        if rows != columns and source.family != "vit":
            raise UsageError(
                f"--hub: {source.family} of transformers knows square pictures alone, and this model reads "
                f"{rows} x {columns}: train with a square --model.image.size"
            )
        shared |= {"image_size": rows if rows == columns else tower.size, "patch_size": tower.patch}
        if source.family == "vit":
            return hf.ViTConfig(architectures=["ViTModel"], **shared)
        if source.family == "clip":
            return hf.CLIPVisionConfig(architectures=["CLIPVisionModel"], **shared)
        return hf.SiglipVisionConfig(
            architectures=["SiglipVisionModel"], vision_use_head=tower.pool == "source", **shared
        )
    assert isinstance(source, TextSource)
    shared |= {"vocab_size": model.vocab_size, "max_position_embeddings": source.positions}
    return text_config(hf, tower, shared)


def text_config(hf: Any, tower: TextConfig, shared: dict[str, Any]) -> Any:
    """`hub_config` of a text tower."""
    source = tower.source
    assert source is not None
    if source.family == "clip":
        return hf.CLIPTextConfig(architectures=["CLIPTextModel"], **shared)
    if source.family == "siglip":
        return hf.SiglipTextConfig(architectures=["SiglipTextModel"], pad_token_id=source.pad, **shared)
    if source.family == "mpnet":
        return hf.MPNetConfig(
            architectures=["MPNetModel"], relative_attention_num_buckets=source.buckets, pad_token_id=1, **shared
        )
    if source.family == "distilbert":
        return hf.DistilBertConfig(
            architectures=["DistilBertModel"],
            vocab_size=shared["vocab_size"],
            max_position_embeddings=shared["max_position_embeddings"],
            dim=tower.width,
            n_layers=tower.depth,
            n_heads=tower.heads,
            hidden_dim=source.hidden,
            activation=shared["hidden_act"],
        )
    if source.offset:
        return hf.RobertaConfig(
            architectures=["RobertaModel"], pad_token_id=source.offset - 1, type_vocab_size=source.types, **shared
        )
    return hf.BertConfig(architectures=["BertModel"], type_vocab_size=source.types, **shared)


def preprocessor(tower: ImageConfig) -> dict[str, Any]:
    """What `transformers` does to a picture before the tower reads it."""
    source = tower.source
    assert source is not None
    kinds = {"vit": "ViTImageProcessor", "clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}
    return {
        "image_processor_type": kinds[source.family],
        "do_resize": True,
        "do_center_crop": False,
        "size": {"height": tower.size[0], "width": tower.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(source.mean),
        "image_std": list(source.std),
    }


def write_sentence_modules(folder: Path, tower: TextConfig, project: Mapping[str, np.ndarray]) -> None:
    """What `sentence-transformers` needs beside the tower to give the model's vectors: pool, project, normalise."""
    dim, width = project["weight"].shape
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{MODULES}models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    for path, _ in kinds[1:]:
        (folder / path).mkdir()
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": tower.max_tokens, "do_lower_case": False})
    write_json(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": tower.pool == "source",
            "pooling_mode_mean_tokens": tower.pool == "mean",
        },
    )
    write_json(
        folder / "2_Dense/config.json",
        {
            "in_features": width,
            "out_features": dim,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    write_arrays(
        folder / "2_Dense/model.safetensors", {f"linear.{key}": x for key, x in project.items()}, {"format": "pt"}
    )

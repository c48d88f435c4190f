"""Weights in fewer bytes: what rounding may cost, which parameters it touches, and what the command says of it."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from maxsearch.config import MeshConfig
from maxsearch.encode import Encoder
from maxsearch.exporting.probes import cosines
from maxsearch.mesh import make_mesh
from maxsearch.model_files import read_flat_weights, read_weights, write_weights
from maxsearch.models.heads import served
from maxsearch.presets import load_preset, preset_names
from maxsearch.serving.program import ExportedEncoder
from maxsearch.training.state import init_params
from maxsearch.weight_formats import SCALE, input_axes, packed, unpacked
from tests import tiny

MATRICES = nps.arrays(
    np.float32, nps.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e6, 1e6, width=32)
)


@given(MATRICES)
def test_int8_is_off_by_half_a_step_of_its_channel_at_most(matrix: np.ndarray) -> None:
    found = unpacked(packed({"a/kernel": matrix}, "int8"), "int8")["a/kernel"]
    step = np.abs(matrix).max(axis=0, keepdims=True) / 127
    assert (np.abs(found - matrix) <= step * 0.5001 + 1e-30).all()


@given(MATRICES)
def test_bfloat16_is_off_by_a_part_in_256_at_most(matrix: np.ndarray) -> None:
    found = unpacked(packed({"embedding": matrix}, "bfloat16"), "bfloat16")["embedding"]
    assert (np.abs(found - matrix) <= np.abs(matrix) / 256 + 1e-38).all()


def test_one_loud_channel_does_not_coarsen_the_others() -> None:
    quiet = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    for name, loud in (
        ("tower/embedding", quiet * np.array([[1e4]] + [[1]] * 7)),
        ("tower/kernel", quiet * np.array([1e4, 1, 1, 1])),
    ):
        loud = loud.astype(np.float32)
        error = np.abs(unpacked(packed({name: loud}, "int8"), "int8")[name] - loud)
        assert error[1:, 1:].max() < 0.02 < error.max()
    stack = np.stack([quiet, 1e4 * quiet])  # two layers of one stack
    assert np.abs(unpacked(packed({"up": stack}, "int8"), "int8")["up"] - stack)[0].max() < 0.02


def test_scales_have_one_entry_per_output() -> None:
    shapes = {
        "blocks/qkv": ((2, 6, 3, 4, 5), (2, 1, 3, 4, 5)),
        "blocks/out": ((2, 4, 5, 6), (2, 1, 1, 6)),
        "attention/out": ((4, 5, 6), (1, 1, 6)),
        "attention/key_value": ((6, 2, 4, 5), (1, 2, 4, 5)),
        "stage_0/kernel": ((3, 3, 8, 7), (1, 1, 1, 7)),
        "query_encoder/embedding": ((9, 6), (9, 1)),
    }
    arrays = packed({name: np.ones(shape, np.float32) for name, (shape, _) in shapes.items()}, "int8")
    assert {name: arrays[name + SCALE].shape for name in shapes} == {name: shape for name, (_, shape) in shapes.items()}
    assert {arrays[name].dtype for name in shapes} == {np.dtype(np.int8)}


@pytest.mark.parametrize("name", preset_names())
def test_every_large_parameter_of_every_preset_is_rounded(name: str) -> None:
    config = load_preset(name)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        params = served(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
    for path, leaf in jax.tree.leaves_with_path(params):
        key = "/".join(str(part.key) for part in path)
        whole = np.broadcast_to(np.float32(0), leaf.shape)
        large = leaf.size > 0.001 * sum(x.size for x in jax.tree.leaves(params))
        assert input_axes(key, whole) or not large, key


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_files_come_back_as_float32(kind: str, tmp_path: Path) -> None:
    params = {"a": {"kernel": np.eye(3, dtype=np.float32), "bias": np.full(3, 0.1, np.float32)}}
    write_weights(tmp_path, params, kind)  # type: ignore[arg-type]
    found = read_weights(tmp_path)["a"]
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["bias"], params["a"]["bias"], strict=True)
    np.testing.assert_allclose(found["kernel"], np.eye(3), atol=1e-6)
    assert read_flat_weights(tmp_path, ["a/kernel"]).keys() == {"a/kernel"}


def test_a_column_of_zeros_stays_zero() -> None:
    found = unpacked(packed({"kernel": np.zeros((2, 3), np.float32)}, "int8"), "int8")["kernel"]
    np.testing.assert_array_equal(found, np.zeros((2, 3), np.float32), strict=True)


@pytest.mark.parametrize(("kind", "least", "share"), [("bfloat16", 0.9999, 0.55), ("int8", 0.999, 0.32)])
def test_a_rounded_export_is_a_model_of_its_own_that_tells_its_loss(
    kind: str, least: float, share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, raw = tmp_path / "model", tiny.catalogue()
    words: list[object] = ["export", "--run", tiny.run(), "--out", model, "--weights", kind]
    if kind == "int8":
        words += ["--products", raw / "products.test.parquet", "--queries", raw / "queries.test.csv"]
        words += ["--qrels", raw / "qrels.test.tsv"]
    tiny.quiet(*words)
    said = capsys.readouterr().out
    assert f"{kind} weights" in said
    assert "cosine with the run's vectors, probe queries: mean 0.99" in said
    assert ("nDCG@10 before 0." in said) == (kind == "int8")
    rounded, run = Encoder.from_model(model), Encoder.from_run(tiny.run())
    exported = ExportedEncoder.load(model)
    assert rounded.fingerprint == exported.fingerprint != run.fingerprint
    assert exported.manifest["rounded_from"] == run.fingerprint
    assert exported.manifest["cosine"]["q"]["min"] > least
    queries = ["red shoes", "a blue wooden table"]
    cosine = (exported.encode_queries(queries) * run.encode_queries(queries)).sum(axis=1)
    assert least < cosine.min() < 1.00001
    np.testing.assert_allclose(exported.encode_queries(queries), rounded.encode_queries(queries), atol=2e-6)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (model, tiny.model())]
    assert sizes[0] < share * sizes[1] + 10_000  # the header


def test_cosines_are_of_queries_and_products() -> None:
    exact = {"q": np.eye(2, dtype=np.float32), "p": np.ones((1, 2), np.float32)}
    rounded = {"q": np.array([[1, 0], [1, 1]], np.float32), "p": np.full((1, 2), 7, np.float32)}
    found = cosines(exact, rounded)
    assert found["q"]["min"] == pytest.approx(2**-0.5)
    assert found["q"]["mean"] == pytest.approx((1 + 2**-0.5) / 2)
    assert found["p"] == pytest.approx({"mean": 1, "min": 1})

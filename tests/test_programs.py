"""Exported programs: they agree with the model whatever the batch, need none of its code, and are refused if broken."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export as jax_export
from safetensors.numpy import load_file, save_file

from maxsearch.config import Config
from maxsearch.data.keywords import Lexicon
from maxsearch.data.tokenize import train_tokenizer
from maxsearch.encode import Encoder, product_layout
from maxsearch.errors import MaxsearchError
from maxsearch.exporting import programs
from maxsearch.exporting.export import export
from maxsearch.exporting.layout_free import without_layout
from maxsearch.exporting.probes import probe_products, probe_vectors
from maxsearch.model_files import flatten_params, read_flat_weights
from maxsearch.models.heads import SERVED_HEADS
from maxsearch.program_files import PRODUCT_PROGRAM, QUERY_PROGRAM
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.program import ExportedEncoder
from maxsearch.training.state import model_graph
from tests import tiny
from tests.serving_fakes import folder_bytes
from tests.small import CONFIG, lively_params, on_mesh, set_mesh, with_model

WORDS = ["red shoe", "blue shoe", "green hat", "red hat", "black belt", "blue belt"]


@cache
def both() -> tuple[ExportedEncoder, Encoder]:
    return ExportedEncoder.load(tiny.model()), Encoder.from_model(tiny.model())


@pytest.fixture
def exported() -> ExportedEncoder:
    return both()[0]


@pytest.fixture
def encoder() -> Encoder:
    return both()[1]


def small_encoder(config: Config, words: tuple[str, ...] = ()) -> Encoder:
    """A model of the config with live parameters."""
    tiny.folder()  # compiled programs are kept there
    with set_mesh(1, 1, 1):
        params = lively_params(config)
    return Encoder(config, params, train_tokenizer(WORDS, 512), 1, Lexicon(words) if words else None)


def test_a_program_stands_in_for_the_model(exported: ExportedEncoder, encoder: Encoder) -> None:
    assert isinstance(exported, EmbeddingModel)
    assert exported.fingerprint == encoder.fingerprint
    assert (exported.dim, exported.image_edge) == (encoder.dim, encoder.image_edge) == (16, 224)
    assert exported.encode_queries([]).shape == (0, 16)
    assert list(exported.encode_products([])) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["", "red shoes", "Gürtel aus Leder 90 cm", "赤い かばん", "a " * 40]), max_size=20))
def test_queries_agree_whatever_their_number(queries: list[str]) -> None:
    exported, encoder = both()
    np.testing.assert_allclose(exported.encode_queries(queries), encoder.encode_queries(queries), atol=2e-6)


def test_products_agree_whatever_their_number(exported: ExportedEncoder, encoder: Encoder) -> None:
    products = [replace(product, product_id=str(i)) for i in range(4) for product in probe_products()]
    (whole,) = encoder.encode_products(products)
    for size in (1, 5, 8):
        batches = list(exported.encode_products(iter(products), size))
        assert [product for batch in batches for product in batch.products] == products
        assert max(len(batch.products) for batch in batches) == size
        for name in ("p", "t", "v", "weights"):
            found = np.concatenate([getattr(batch, name) for batch in batches])
            np.testing.assert_allclose(found, getattr(whole, name), atol=2e-6, err_msg=name)


def test_more_queries_than_a_batch_holds(
    exported: ExportedEncoder, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maxsearch.serving.program.MAX_QUERIES", 4)
    queries = [f"red shoes {number}" for number in range(9)]
    np.testing.assert_allclose(exported.encode_queries(queries), encoder.encode_queries(queries), atol=2e-6)


def test_what_was_warmed_up_does_not_compile_again(encoder: Encoder) -> None:
    exported = ExportedEncoder.load(tiny.model())
    assert exported.warm_up((1, 3), (1,)) > 0
    before = exported._query._call._cache_size(), exported._product._call._cache_size()
    assert before == (2, 1)
    for queries in (["red shoes"], ["a " * 40] * 3, ["dress"] * 4):
        exported.encode_queries(queries)
    list(exported.encode_products(probe_products()[:1]))
    assert (exported._query._call._cache_size(), exported._product._call._cache_size()) == before


FRESH = """
import sys

ABSENT = {"flax", "transformers", "optax", "orbax", "maxsearch.models", "maxsearch.encode", "maxsearch.training"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ImportError(f"{name} is absent here")

sys.meta_path.insert(0, Absent())
from pathlib import Path
import numpy as np
from maxsearch.exporting.probes import probe_vectors
from maxsearch.serving.program import ExportedEncoder
found = probe_vectors(ExportedEncoder.load(Path(sys.argv[1])))
loaded = ABSENT & sys.modules.keys()
assert not loaded, loaded
np.savez(sys.argv[2], **found)
"""


def test_a_fresh_process_needs_neither_the_model_nor_flax(encoder: Encoder, tmp_path: Path) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(Path.cwd())}
    ran = subprocess.run(
        [sys.executable, "-c", FRESH, tiny.model(), tmp_path / "found.npz"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    with np.load(tmp_path / "found.npz") as found:
        for name, rows in probe_vectors(encoder).items():
            np.testing.assert_allclose(found[name], rows, atol=2e-6, err_msg=name)


def test_one_file_is_for_every_platform_and_names_no_source_file() -> None:
    for name in (QUERY_PROGRAM, PRODUCT_PROGRAM):
        content = (tiny.model() / name).read_bytes()
        assert jax_export.deserialize(bytearray(content)).platforms == ("cpu", "tpu", "cuda")
        assert b".py" not in content
        assert len(content) < 100_000  # no weights


def test_a_deep_query_encoder_reads_short_queries_at_a_shorter_length(tmp_path: Path, quick_compile: None) -> None:
    text = replace(CONFIG.model.query, max_tokens=32)
    encoder = small_encoder(with_model(CONFIG, query=text, vocab_size=512))
    export(encoder, tmp_path / "m", reload=Encoder.from_model, write_programs=programs.write_programs)
    exported = ExportedEncoder.load(tmp_path / "m")
    assert exported.inputs.query_lengths == (8, 32)
    assert exported.query_arrays(["red shoe", ""])["ids"].shape == (2, 8)
    assert exported.query_arrays(["red shoe", "hat " * 9])["ids"].shape == (2, 32)
    for queries in (["red shoe"], ["hat " * 9, "blue belt"]):
        np.testing.assert_allclose(exported.encode_queries(queries), encoder.encode_queries(queries), atol=5e-6)


def heads_config() -> Config:
    """A small model with every head and an aligner whose words enter the fusion tower."""
    terms = ("keywords", "mlm_query", "mlm_title", "mpm", "matching", "image_matching")
    loss = replace(CONFIG.loss, **dict.fromkeys(terms, 0.1))
    config = with_model(CONFIG, vocab_size=512, keywords=4, align=replace(CONFIG.model.align, visual_words=2))
    return replace(config, loss=loss)


def test_heads_that_only_training_uses_stay_behind(tmp_path: Path, quick_compile: None) -> None:
    encoder = small_encoder(heads_config(), ("red", "blue", "shoe", "hat"))
    export(encoder, tmp_path / "m", reload=Encoder.from_model, write_programs=programs.write_programs)
    names = read_flat_weights(tmp_path / "m").keys()
    assert {name.split("/")[1] for name in names if name.startswith("heads/")} == {"matching"}
    assert any(name.startswith("aligner/") for name in names)
    found = Encoder.from_model(tmp_path / "m")
    assert found.fingerprint == encoder.fingerprint
    assert found.matches and found.aligns
    pairs = np.array([[0, 0], [0, 1]])
    np.testing.assert_array_equal(
        found.match(["red hat"], probe_products(), pairs), encoder.match(["red hat"], probe_products(), pairs)
    )
    # What training alone uses does not count as another model.
    params = jax.tree.map(np.array, lively_params_of(heads_config()))
    params["heads"]["mpm"]["null"] += 1
    assert Encoder(encoder.config, params, encoder.tokenizer, 1, encoder.lexicon).fingerprint == encoder.fingerprint
    params["heads"]["matching"]["norm"]["bias"] += 1
    assert Encoder(encoder.config, params, encoder.tokenizer, 1, encoder.lexicon).fingerprint != encoder.fingerprint


def lively_params_of(config: Config) -> Any:
    with set_mesh(1, 1, 1):
        return lively_params(config)


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [("cross_attention", "float32", 1e-5), ("nextvlad", "float32", 1e-5), ("concat", "bfloat16", 0.03)],
)
def test_every_tower_becomes_a_program(kind: str, dtype: str, tolerance: float, quick_compile: None) -> None:
    tiny.folder()  # compiled programs are kept there
    fusion = replace(CONFIG.model.fusion, kind=kind)
    config = with_model(CONFIG, fusion=fusion, dtype=dtype, images=2, texts=2)
    rows = {name: np.zeros(shape, kind) for name, (shape, kind) in product_layout(config, 3).items()}
    rng = np.random.default_rng(0)
    rows["ids"] = rng.integers(1, 64, rows["ids"].shape, np.int32)
    rows["image"] = rng.integers(0, 255, rows["image"].shape, np.uint8)
    rows["mask"], rows["present"] = rng.random(rows["mask"].shape) < 0.7, rng.random(rows["present"].shape) < 0.7
    with set_mesh(1, 1, 1):
        params, graph = lively_params(config), model_graph(config, (), SERVED_HEADS)
        model = jax.jit(lambda params, rows: programs.product_vectors(nnx.merge(graph, params), rows))
        expected = jax.tree.map(np.asarray, model(params, on_mesh(rows)))
    flat = flatten_params(params)
    (B,) = jax_export.symbolic_shape("b")
    shapes = {name: (value.shape, value.dtype) for name, value in flat.items()}
    layout = {name: ((B, *value.shape[1:]), value.dtype) for name, value in rows.items()}
    exported = jax_export.deserialize(bytearray(programs.program(graph, programs.product_vectors, shapes, layout)))
    read = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][0]
    assert "query_encoder/embedding" not in read
    found = exported.call({name: flat[name] for name in read}, rows)
    for name, vectors in expected.items():
        np.testing.assert_allclose(found[name], vectors, atol=tolerance, err_msg=name)


def test_an_unknown_primitive_with_equations_is_refused() -> None:
    traced = jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x))(jnp.zeros(2))
    with pytest.raises(NotImplementedError, match="the primitive while has equations of its own"):
        without_layout(traced)(jnp.zeros(2))


def test_a_program_that_disagrees_is_not_put_in_place(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    before = folder_bytes(model)
    monkeypatch.setattr(programs, "query_vectors", lambda model, b: {"q": -model.encode_query(b["ids"], b["mask"])})
    with pytest.raises(
        MaxsearchError, match=r"programs do not give the model's q vectors \(they differ by up to [0-9.]+"
    ):
        export(encoder, model, reload=Encoder.from_model, write_programs=programs.write_programs)
    assert folder_bytes(model) == before


def test_verify_tells_what_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.quiet("export", "--verify", tiny.model())
    assert "its files are whole, and model and programs give its vectors" in capsys.readouterr().out
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    vectors = model / "probes/vectors.safetensors"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 0x80  # the sign of the last modality weight
    vectors.write_bytes(content)
    code, said = tiny.fails(capsys, "export", "--verify", model)
    assert (code, "was altered" in said) == (1, True)
    relist(model, "probes/vectors.safetensors")
    code, said = tiny.fails(capsys, "export", "--verify", model)
    assert code == 1
    assert "the exported model does not give the run's weights vectors" in said
    assert said.endswith("export it again with this version of maxsearch and of its libraries")


def relist(model: Path, *names: str, drop: bool = False) -> None:
    """Makes the manifest fit changed files."""
    path = model / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in names:
        if drop:
            del manifest["files"][name]
        else:
            content = (model / name).read_bytes()
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))


def edited(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)
    relist(model, name)


DAMAGE = {
    "cut short": (
        lambda m: (m / QUERY_PROGRAM).write_bytes((m / QUERY_PROGRAM).read_bytes()[:-9]),
        r"query.jaxexport holds \d+ bytes where",
    ),
    "absent": (lambda m: (m / QUERY_PROGRAM).unlink(), "query.jaxexport is missing"),
    "exported without programs": (
        lambda m: relist(m, PRODUCT_PROGRAM, drop=True),
        "has no programs/product.jaxexport",
    ),
    "another format": (lambda m: edited(m, QUERY_PROGRAM, b"\0" * 64), "query.jaxexport cannot be read by jax 0"),
    "empty": (lambda m: edited(m, QUERY_PROGRAM, b""), "query.jaxexport cannot be read by jax 0"),
    "inputs of a list": (
        lambda m: edited(m, "programs/inputs.json", b"[]"),
        "inputs.json does not describe the programs' inputs",
    ),
    "inputs without a field": (
        lambda m: edited(m, "programs/inputs.json", b'{"dim": 16}'),
        "inputs.json does not describe the programs' inputs",
    ),
    "no tokenizer": (
        lambda m: edited(m, "tokenizer/tokenizer.json", b"{}"),
        "tokenizer.json cannot be read",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    damage, sentence = DAMAGE[name]
    damage(model)
    with pytest.raises(MaxsearchError, match=sentence) as error:
        ExportedEncoder.load(model).encode_queries(["shoes"])
    assert str(error.value).endswith("write it with `maxsearch export`")
    assert "\n" not in str(error.value)


def test_weights_that_lack_a_parameter_of_the_program_are_refused(tmp_path: Path) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["query_project/bias"]
    save_file(weights, model / "model.safetensors")
    relist(model, "model.safetensors")
    with pytest.raises(MaxsearchError, match="holds no parameter query_project/bias: write it with"):
        ExportedEncoder.load(model)


def test_another_platform_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "METAL")
    with pytest.raises(MaxsearchError, match=r"runs on cpu, tpu, cuda and jax uses METAL here: set JAX_PLATFORMS=cpu"):
        ExportedEncoder.load(tiny.model())


KILLED = """
import os, signal
import maxsearch.exporting.export as place
place.write_manifest = lambda *parts: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_during_export_leaves_the_older_folder_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    before = folder_bytes(model)
    ran = tiny.spawn(["export", "--run", tiny.run(), "--step", 6, "--out", model], script=KILLED)
    assert ran.returncode == -9
    assert folder_bytes(model) == before
    assert len(list(tmp_path.iterdir())) == 2  # what the killed process left
    tiny.quiet("export", "--run", tiny.run(), "--step", 6, "--out", model)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert ExportedEncoder.load(model).manifest["step"] == 6

import hashlib
import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.exporting.export import export
from maxsearch.exporting.probes import probe_products, probe_vectors
from maxsearch.model_files import flatten_params, read_weights, unflatten_params, verify_model, write_weights
from tests.serving_fakes import FakeConfig, FakeEncoder, folder_bytes


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder.make()


@pytest.fixture
def model(tmp_path: Path, encoder: FakeEncoder) -> Path:
    export(encoder, tmp_path / "model", reload=FakeEncoder.from_model, step=700)
    return tmp_path / "model"


def test_model_folder_holds_weights_config_tokenizer_and_their_checksums(model: Path, encoder: FakeEncoder) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    files = folder_bytes(model)
    assert {"model.safetensors", "config.json", "tokenizer/tokenizer.json"} <= files.keys()
    assert manifest["kind"] == "maxsearch-model"
    assert manifest["schema_version"] == 2
    assert manifest["step"] == 700
    assert manifest["fingerprint"] == encoder.fingerprint
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
        if name != "manifest.json"
    }
    assert json.loads(files["config.json"]) == {"rows": 4096, "dim": 24}
    assert verify_model(model) == manifest


def test_model_read_back_gives_the_same_vectors(model: Path, encoder: FakeEncoder) -> None:
    reloaded = FakeEncoder.from_model(model)
    np.testing.assert_array_equal(reloaded.params["words"]["table"], encoder.params["words"]["table"])
    for name, vectors in probe_vectors(encoder).items():
        np.testing.assert_array_equal(probe_vectors(reloaded)[name], vectors)
    assert reloaded.tokenizer("shoes").input_ids == [2]


def test_two_exports_give_equal_bytes(model: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    export(encoder, tmp_path / "again", reload=FakeEncoder.from_model, step=700)
    assert folder_bytes(tmp_path / "again") == folder_bytes(model)


def test_weights_keep_values_shapes_and_types(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    params = {
        "transposed": rng.normal(size=(5, 3)).astype(np.float32).T,
        "strided": np.arange(12, dtype=np.int32)[::2],
        "block": {"scalar": np.float32(2.5), "half": rng.normal(size=(2, 2)).astype(ml_dtypes.bfloat16)},
    }
    write_weights(tmp_path, params)
    found = read_weights(tmp_path)
    assert found.keys() == params.keys()
    for name, value in flatten_params(params).items():
        read = flatten_params(found)[name]
        assert read.dtype == value.dtype
        np.testing.assert_array_equal(read, value, strict=True)


NAMES = st.text(alphabet=st.characters(exclude_characters="/", exclude_categories=("Cs",)), min_size=1, max_size=4)
TREES = st.recursive(
    st.integers(0, 9).map(np.asarray), lambda trees: st.dictionaries(NAMES, trees, min_size=1, max_size=3), max_leaves=8
)


@given(st.dictionaries(NAMES, TREES, max_size=3))
def test_unflatten_reverses_flatten(params: dict) -> None:
    assert unflatten_params(flatten_params(params)) == params


@pytest.mark.parametrize("params", [{"a/b": np.zeros(1)}, {"a": {0: np.zeros(1)}}])
def test_flatten_refuses_names_that_would_not_come_back(params: dict) -> None:
    with pytest.raises(ValueError, match="must be a string without slashes"):
        flatten_params(params)


def test_probes_cover_both_modalities_and_each_alone() -> None:
    assert [(bool(product.title), bool(product.image)) for product in probe_products()] == [
        (True, True),
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("part", ["words", "image"])
def test_a_model_that_reads_back_otherwise_is_not_put_in_place(model: Path, part: str) -> None:
    before = folder_bytes(model)
    other = FakeEncoder.make(seed=1)

    def broken(folder: Path) -> FakeEncoder:
        found = FakeEncoder.from_model(folder)
        changed = FakeEncoder(
            {**found.params, part: FakeEncoder.make(seed=2).params[part]}, found.config, found.tokenizer
        )
        return with_fingerprint(changed, other.fingerprint)

    with pytest.raises(
        MaxsearchError, match=r"does not give the run's [qpv] vectors \(they differ by up to [0-9.]+\): nothing"
    ):
        export(other, model, reload=broken)
    assert folder_bytes(model) == before
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def with_fingerprint(encoder: FakeEncoder, fingerprint: str) -> FakeEncoder:
    fixed = type("Fixed", (FakeEncoder,), {"fingerprint": fingerprint})
    return fixed(encoder.params, encoder.config, encoder.tokenizer)


def test_another_fingerprint_on_reload_is_refused(encoder: FakeEncoder, tmp_path: Path) -> None:
    with pytest.raises(MaxsearchError, match=f"reads back as model {'f' * 12}, not {encoder.fingerprint[:12]}"):
        export(
            encoder, tmp_path / "m", reload=lambda folder: with_fingerprint(FakeEncoder.from_model(folder), "f" * 64)
        )
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_are_not_finite_are_refused_by_name(encoder: FakeEncoder, tmp_path: Path) -> None:
    encoder.params["image"]["bias"][3] = np.nan
    with pytest.raises(
        MaxsearchError, match=r"parameter image/bias holds a value that is not finite.*choose an earlier step"
    ):
        export(encoder, tmp_path / "m", reload=FakeEncoder.from_model)


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config = FakeConfig(rows=4, dim=2)
    zero = {"words": {"table": np.zeros((4, 2), np.float32)}, "image": {"bias": np.ones(2), "scale": np.float32(1)}}
    encoder = FakeEncoder(zero, config, FakeEncoder.make().tokenizer)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(MaxsearchError, match="the model gives q vectors that are not finite"),
    ):
        export(encoder, tmp_path / "m", reload=FakeEncoder.from_model)


def test_other_peoples_folders_and_files_are_not_replaced(encoder: FakeEncoder, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "note").write_text("note")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text('{"kind": "maxsearch-data"}')
    before = folder_bytes(tmp_path)
    for name in ("photos", "note", "data"):
        with pytest.raises(
            UsageError, match=rf"{name} exists and is not a maxsearch model folder: pass another folder to --out"
        ):
            export(encoder, tmp_path / name, reload=FakeEncoder.from_model)
    assert folder_bytes(tmp_path) == before


def test_an_empty_folder_and_an_older_model_are_replaced(model: Path, tmp_path: Path) -> None:
    other = FakeEncoder.make(seed=1)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "model"):
        export(other, tmp_path / name, reload=FakeEncoder.from_model)
        assert verify_model(tmp_path / name)["fingerprint"] == other.fingerprint


def edit(model: Path, **changes: object) -> None:
    path = model / "manifest.json"
    manifest = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "no manifest": (
        lambda m: (m / "manifest.json").unlink(),
        r"is not a maxsearch model folder \(it has no manifest.json\)",
    ),
    "broken manifest": (
        lambda m: truncate_to(m / "manifest.json", 20),
        "model manifest .*manifest.json is not valid JSON",
    ),
    "manifest of a list": (
        lambda m: (m / "manifest.json").write_text("[]"),
        "manifest's kind is None, not 'maxsearch-model'",
    ),
    "other kind": (
        lambda m: edit(m, kind="maxsearch-index"),
        "manifest's kind is 'maxsearch-index', not 'maxsearch-model'",
    ),
    "older schema": (lambda m: edit(m, schema_version=1), "has schema version 1 .* and this maxsearch reads version 2"),
    "no fingerprint": (lambda m: edit(m, fingerprint=None), "has no 'fingerprint' of type str, so it was altered"),
    "no files": (lambda m: edit(m, files={}), "does not list model.safetensors, so it was altered"),
    "missing file": (
        lambda m: (m / "config.json").unlink(),
        "config.json is missing, though the model manifest lists it",
    ),
    "cut short": (
        lambda m: truncate(m / "model.safetensors"),
        r"model.safetensors holds \d+ bytes where the .* says \d+, so it",
    ),
    "altered weights": (lambda m: flip(m / "model.safetensors"), "model.safetensors was altered"),
    "altered tokenizer": (lambda m: flip(m / "tokenizer" / "tokenizer.json"), "tokenizer.json was altered"),
}


def truncate_to(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_refused_in_one_sentence(model: Path, name: str) -> None:
    damage, expected = DAMAGE[name]
    damage(model)
    with pytest.raises(MaxsearchError, match=expected) as error:
        verify_model(model)
    assert str(model) in str(error.value)
    assert str(error.value).endswith("write it with `maxsearch export`")
    assert "\n" not in str(error.value)


def test_an_absent_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        MaxsearchError, match=re.escape(f"no model folder at {tmp_path / 'x'}: write it with `maxsearch export`")
    ):
        verify_model(tmp_path / "x")


def test_a_manifest_cannot_point_outside_its_folder(model: Path) -> None:
    files = json.loads((model / "manifest.json").read_text())["files"]
    edit(model, files={**files, "../secret": {"bytes": 0, "sha256": ""}})
    with pytest.raises(MaxsearchError, match=r"has a bad entry for '\.\./secret'"):
        verify_model(model)


def test_without_checksums_only_presence_and_size_are_checked(model: Path) -> None:
    flip(model / "model.safetensors")
    verify_model(model, checksums=False)
    truncate(model / "model.safetensors")
    with pytest.raises(MaxsearchError, match="cut short"):
        verify_model(model, checksums=False)

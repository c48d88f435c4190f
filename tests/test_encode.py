import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from maxsearch.config import Config
from maxsearch.data.catalogue import BadRecord, read_products
from maxsearch.data.records import Product
from maxsearch.encode import EncodedProducts, Encoder, architecture
from maxsearch.errors import MaxsearchError
from maxsearch.presets import load_preset
from tests import tiny

QUERIES = ["red shoes", "a blue wooden table", "", "Gürtel aus Leder 90 cm", "red shoes"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_run(tiny.run())


@pytest.fixture(scope="module")
def products() -> list[Product]:
    rows = read_products(tiny.catalogue() / "products.test.parquet", columns={}, image_dir=None, edge=224)
    records = [record for _, record in rows if not isinstance(record, BadRecord)]
    assert len(records) == 50
    return records


def joined(batches: Any) -> dict[str, np.ndarray]:
    batches = list(batches)
    return {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in ("p", "t", "v", "weights")}


def test_run_and_exported_model_agree_bit_for_bit(encoder: Encoder, products: list[Product]) -> None:
    exported = Encoder.from_model(tiny.model())
    assert exported.fingerprint == encoder.fingerprint
    assert (exported.step, exported.dim, exported.image_edge) == (encoder.step, encoder.dim, 224) == (10, 16, 224)
    np.testing.assert_array_equal(exported.encode_queries(QUERIES), encoder.encode_queries(QUERIES))
    expected, found = joined(encoder.encode_products(products)), joined(exported.encode_products(products))
    for name, vectors in expected.items():
        np.testing.assert_array_equal(found[name], vectors, err_msg=name)


def test_vectors_are_unit_and_weights_sum_to_one(encoder: Encoder, products: list[Product]) -> None:
    vectors = joined(encoder.encode_products(products))
    assert vectors["p"].dtype == np.float32
    for name in ("p", "t", "v"):
        np.testing.assert_allclose(np.linalg.norm(vectors[name], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors["weights"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_queries(["red shoes"]), axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors["p"].round(5), axis=0)) == 50


def test_batches_keep_the_order_and_do_not_change_vectors(encoder: Encoder, products: list[Product]) -> None:
    whole = joined(encoder.encode_products(products))
    batches: list[EncodedProducts] = list(encoder.encode_products(iter(products), batch_size=19))
    assert [len(batch.products) for batch in batches] == [24, 24, 2]  # 19, in whole shares of eight devices
    assert [product for batch in batches for product in batch.products] == products
    for name, vectors in joined(batches).items():
        np.testing.assert_allclose(vectors, whole[name], atol=2e-6, err_msg=name)
    backward = joined(encoder.encode_products(products[::-1]))
    np.testing.assert_allclose(backward["p"][::-1], whole["p"], atol=2e-6)


def test_queries_do_not_depend_on_their_number(encoder: Encoder) -> None:
    together = encoder.encode_queries(QUERIES)
    alone = np.concatenate([encoder.encode_queries([query]) for query in QUERIES])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    many = encoder.encode_queries(QUERIES * 60)  # more than one batch
    assert many.shape == (300, 16)
    np.testing.assert_allclose(many, np.tile(together, (60, 1)), atol=2e-6)
    np.testing.assert_array_equal(together[0], together[4])
    assert encoder.encode_queries([]).shape == (0, 16)
    assert list(encoder.encode_products([])) == []


def test_what_a_product_lacks_does_not_matter(encoder: Encoder, products: list[Product]) -> None:
    one, two = products[0], products[1]
    assert one.image and two.image and one.title != two.title
    untitled = joined(encoder.encode_products([replace(one, title=""), replace(two, title="")]))
    unseen = joined(encoder.encode_products([replace(one, images=()), replace(two, images=())]))
    # The vector of what is missing is that of the null token, whatever the rest.
    np.testing.assert_allclose(untitled["t"][0], untitled["t"][1], atol=2e-6)
    np.testing.assert_allclose(unseen["v"][0], unseen["v"][1], atol=2e-6)
    assert np.abs(untitled["p"][0] - untitled["p"][1]).max() > 1e-3
    assert np.abs(unseen["p"][0] - unseen["p"][1]).max() > 1e-3
    # All weight lies on what is there.
    np.testing.assert_allclose(untitled["weights"], [[0, 1], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(unseen["weights"], [[1, 0], [1, 0]], atol=1e-6)


def test_a_product_without_anything_has_a_finite_vector(encoder: Encoder) -> None:
    (batch,) = encoder.encode_products([Product("nothing", "")])
    assert np.isfinite(batch.p).all()


def test_models_of_version_0_1_keep_their_fingerprint() -> None:
    # The names that a tower's config had then; a value that came later counts only where it is set.
    text = {"width", "depth", "heads", "mlp_ratio", "max_tokens", "dropout"}
    image = {"size", "patch", "stem", "stem_width", "stem_blocks", "colour_width", "width", "depth", "heads"}
    model = architecture(Config())
    assert set(model["query"]) == set(model["title"]) == text
    assert set(model["image"]) == image | {"mlp_ratio", "dropout"}
    assert architecture(load_preset("pretrained/minilm"))["query"]["source"]["family"] == "bert"


@pytest.mark.parametrize("change", ["weight", "tokenizer", "image_edge", "architecture"])
def test_whatever_changes_vectors_changes_the_fingerprint(encoder: Encoder, change: str) -> None:
    params, config, tokenizer = jax.tree.map(np.array, encoder.params), encoder.config, encoder.tokenizer
    same = Encoder(config, params, tokenizer)
    assert same.fingerprint == encoder.fingerprint
    # What does not reach the vectors does not count.
    assert Encoder(replace(config, seed=9, name="other"), params, tokenizer).fingerprint == encoder.fingerprint
    if change == "weight":
        params["query_project"]["bias"][3] = np.nextafter(params["query_project"]["bias"][3], np.float32(1))
    elif change == "tokenizer":
        tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]")
        tokenizer.add_tokens(["zzzz"])
    elif change == "image_edge":
        config = replace(config, data=replace(config.data, image_edge=100))
    else:
        config = replace(config, model=replace(config.model, title=replace(config.model.title, max_tokens=9)))
    assert Encoder(config, params, tokenizer).fingerprint != encoder.fingerprint


def test_an_earlier_step_is_another_model(encoder: Encoder) -> None:
    earlier = Encoder.from_run(tiny.run(), 6)
    assert earlier.step == 6
    assert earlier.fingerprint != encoder.fingerprint
    with pytest.raises(MaxsearchError, match="has no checkpoint of step 7: choose from 6, 9, 10"):
        Encoder.from_run(tiny.run(), 7)


def forge(model: Path, name: str, content: bytes) -> None:
    """Changes a file and makes the manifest fit."""
    (model / name).write_bytes(content)
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (model / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("model", "title", "max_tokens"), 6, "do not fit its config"),
        (("data", "image_edge"), 64, "computes as"),
        (("model", "image", "depth"), 2, "do not fit its config in this version of maxsearch"),
        (("model", "dim"), "wide", "does not fit this version of maxsearch: wrong value type"),
        (("model", "colour"), 1, "does not fit this version of maxsearch: can not match"),
    ],
)
def test_a_tampered_config_is_refused(tmp_path: Path, path: tuple[str, ...], value: object, sentence: str) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    node = config
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    forge(model, "config.json", json.dumps(config).encode())
    with pytest.raises(MaxsearchError) as error:
        Encoder.from_model(model)
    assert str(model) in str(error.value)
    assert sentence in str(error.value)


def test_a_tampered_tokenizer_is_refused(tmp_path: Path) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer/tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    forge(model, "tokenizer/tokenizer.json", json.dumps(tokenizer).encode())
    with pytest.raises(MaxsearchError, match=r"computes as [0-9a-f]{12} and its manifest says [0-9a-f]{12}: export it"):
        Encoder.from_model(model)

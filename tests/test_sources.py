import io
import pickle
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maxsearch.data import sources
from maxsearch.data.mixtures.source import MixtureSource
from maxsearch.data.mixtures.turns import Segment, Turns
from maxsearch.data.records import Interaction, Product
from maxsearch.data.sources import CatalogueSource, EpochDraws, kept_products
from maxsearch.data.tfds_source import TfdsSource, parse_tfds
from maxsearch.errors import MaxsearchError, UsageError
from tests import tiny


@dataclass
class FakeDataset:
    products: list = field(default_factory=list)
    interactions: list = field(default_factory=list)
    fingerprint: str = "f" * 64
    keywords: None = None


def catalogue(weights, fingerprint="f" * 64) -> FakeDataset:
    products = [Product(f"p{i}", f"title {i}", (f"image {i}".encode(),), f"v{i % 2}") for i in range(3)]
    interactions = [Interaction(f"query {i}", i % 3, weight) for i, weight in enumerate(weights)]
    return FakeDataset(products, interactions, fingerprint)


def counts(draws: EpochDraws, epoch: int) -> np.ndarray:
    n = len(draws)
    return np.bincount(draws.positions(range(epoch * n, (epoch + 1) * n)), minlength=n)


weights = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=60)


@settings(deadline=None)
@given(weights, st.integers(0, 2**63), st.integers(0, 10**6))
def test_each_position_is_drawn_floor_or_ceil_of_its_share(weights, seed, epoch):
    share = len(weights) * np.array(weights) / sum(weights)
    drawn = counts(EpochDraws(np.array(weights), seed), epoch)
    assert drawn.sum() == len(weights)
    assert (drawn >= np.floor(share - 1e-5)).all()
    assert (drawn <= np.ceil(share + 1e-5)).all()


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(1e-30, 1e30), st.integers(0, 2**63), st.integers(0, 10**6))
def test_equal_weights_are_drawn_exactly_once(n, weight, seed, epoch):
    assert (counts(EpochDraws(np.full(n, weight), seed), epoch) == 1).all()


def test_a_large_catalogue_is_drawn_without_a_table():
    n = sources.LARGEST_PERMUTATION + 5
    draws = EpochDraws(np.ones(n), 3)
    first, second = draws.positions(range(n)), draws.positions(range(n, 2 * n))
    np.testing.assert_array_equal(np.sort(first), np.arange(n))
    np.testing.assert_array_equal(np.sort(second), np.arange(n))
    assert (first == second).mean() < 0.01
    assert (first == np.arange(n)).mean() < 0.01


def test_every_epoch_and_seed_has_an_order_of_its_own():
    draws = EpochDraws(np.ones(50), 0)
    orders = {tuple(draws.positions(range(50 * epoch, 50 * epoch + 50)).tolist()) for epoch in range(20)}
    assert len(orders) == 20
    assert (EpochDraws(np.ones(50), 1).positions(range(50)) != draws.positions(range(50))).any()


def test_fractions_even_out_over_epochs():
    weights = np.array([1.0, 2.0, 5.0, 0.5])
    draws = EpochDraws(weights, 0)
    drawn = sum(counts(draws, epoch) for epoch in range(2000))
    np.testing.assert_allclose(drawn / 8000, weights / weights.sum(), atol=0.01)


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_a_draw_does_not_depend_on_those_beside_it(draws):
    source = EpochDraws(np.array([1.0, 4.0, 2.0, 9.0, 0.1]), 8)
    assert source.positions(draws).tolist() == [source.positions([draw])[0] for draw in draws]


def test_examples_join_interaction_and_product():
    source = CatalogueSource(catalogue([1.0, 2.0, 3.0, 0.5]), 1.0, seed=4)
    assert len(source) == 4
    for example in source.examples(range(100)):
        number = int(example.query.removeprefix("query "))
        assert example.product == number % 3
        assert example.title == f"title {number % 3}"
        assert example.images == (f"image {number % 3}".encode(),)
        assert example.variant == f"v{number % 3 % 2}"
        assert example.weight == [1.0, 2.0, 3.0, 0.5][number]
    assert list(source.texts()) == [f"title {i}" for i in range(3)] + [f"query {i}" for i in range(4)]


@pytest.mark.parametrize(("power", "shares"), [(0.0, [0.25] * 4), (0.5, [0.1, 0.2, 0.3, 0.4]), (1.0, [1, 4, 9, 16])])
def test_weight_power_tempers_the_draws(power, shares):
    source = CatalogueSource(catalogue([1.0, 4.0, 9.0, 16.0]), power)
    drawn = Counter(example.query for example in source.examples(range(40000)))
    expected = np.array(shares) / sum(shares)
    np.testing.assert_allclose([drawn[f"query {i}"] / 40000 for i in range(4)], expected, atol=0.01)


def test_interactions_are_read_in_blocks(monkeypatch):
    whole = CatalogueSource(catalogue([1.0, 2.0, 3.0, 0.5, 9.0]))
    monkeypatch.setattr(sources, "COLUMN_BLOCK", 2)
    blocks = CatalogueSource(catalogue([1.0, 2.0, 3.0, 0.5, 9.0]))
    assert list(blocks.examples(range(20))) == list(whole.examples(range(20)))
    assert list(blocks.texts()) == list(whole.texts())


def test_weights_near_the_largest_float_are_drawn():
    source = CatalogueSource(catalogue([1e308, 1e308, 1e308]))
    assert sorted(example.query for example in source.examples(range(3))) == ["query 0", "query 1", "query 2"]


def test_the_fingerprint_tells_what_is_drawn():
    def fingerprint(*arguments, data="f"):
        return CatalogueSource(catalogue([1.0, 2.0], data), *arguments).fingerprint

    assert fingerprint(1.0, 0) == fingerprint(1.0, 0)
    assert len({fingerprint(1.0, 0), fingerprint(0.5, 0), fingerprint(1.0, 1), fingerprint(1.0, 0, data="g")}) == 4


def test_a_fraction_keeps_whole_products_and_grows_with_the_number():
    rows = np.arange(20_000, dtype=np.int32)
    half, quarter = kept_products(rows, 0.5), kept_products(rows, 0.25)
    np.testing.assert_allclose([half.mean(), quarter.mean()], [0.5, 0.25], atol=0.01)
    assert not (quarter & ~half).any()
    np.testing.assert_array_equal(kept_products(rows[::-1], 0.5)[::-1], half)
    # Neighbours are decided independently of one another.
    assert abs((half[1:] != half[:-1]).mean() - 0.5) < 0.02

    kept = set(np.flatnonzero(half[:3]).tolist())
    assert 0 < len(kept) < 3
    weights = [1.0, 2.0, 3.0, 0.5, 9.0, 2.0]
    source, whole = (CatalogueSource(catalogue(weights), 1.0, 3, fraction) for fraction in (0.5, 1.0))
    assert len(source) == 2 * len(kept)
    drawn = list(source.examples(range(200)))
    assert {example.product for example in drawn} == kept
    assert {example.query for example in drawn} == {f"query {i}" for i in range(6) if i % 3 in kept}
    assert all(example.weight == weights[int(example.query.split()[1])] for example in drawn)
    titles = {text for text in source.texts() if text.startswith("title")}
    assert titles == {f"title {row}" for row in kept}
    assert source.fingerprint != whole.fingerprint
    assert whole.fingerprint == CatalogueSource(catalogue(weights), 1.0, 3).fingerprint


def test_pickled_sources_draw_the_same():
    source = CatalogueSource(catalogue([1.0, 2.0, 3.0]), 1.0, 2)
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy.examples(range(9))) == list(source.examples(range(9)))


def test_unusable_catalogues_are_refused():
    with pytest.raises(MaxsearchError, match="hold no interactions: prepare them with a file that has some"):
        CatalogueSource(catalogue([]))
    with pytest.raises(UsageError, match=r"weight_power is 1\.5: choose a number from 0 to 1"):
        CatalogueSource(catalogue([1.0]), 1.5)
    with pytest.raises(UsageError, match=r"fraction is 0\.0: choose a number above 0"):
        CatalogueSource(catalogue([1.0]), 1.0, 0, 0.0)
    with pytest.raises(MaxsearchError, match=r"no interaction is left of the fraction 1e-09"):
        CatalogueSource(catalogue([1.0]), 1.0, 0, 1e-9)


BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def jpeg(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 16, 3), value, np.uint8)).save(buffer, "JPEG")
    buffer.seek(0)
    return buffer


class TinyShop(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        text = tfds.features.Text()
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3)),
            "title": text,
            "captions": tfds.features.Sequence({"text": text, "id": np.int64}),
            "photo": {"front": tfds.features.Image(shape=(None, None, 3)), "note": text},
        }))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(12), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            captions = [{"text": f"caption {i} {j}", "id": j} for j in range(i % 4)]
            photo = {"front": jpeg(i * 10 + 5), "note": f"note {i}"}
            yield i, {"image": jpeg(i * 10), "title": f"schöner title {i}", "captions": captions, "photo": photo}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Folder with the TFDS dataset tiny_shop."""
    root = tmp_path_factory.mktemp("tfds")
    package = root / "tiny_shop_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tiny_shop.py").write_text(BUILDER)  # TFDS wants a builder to lie in a package
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        from tiny_shop_package.tiny_shop import TinyShop

        TinyShop(data_dir=root / "data", file_format="array_record").download_and_prepare()
    return root / "data"


def brightness(data: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(data))).mean().round())


def test_tfds_records_become_examples(shop):
    source = TfdsSource("tfds:tiny_shop", "image", "title", data_dir=shop, seed=1)
    assert len(source) == 12
    examples = list(source.examples(range(12)))
    assert sorted(example.product for example in examples) == list(range(12))
    for example in examples:
        number = int(example.query.removeprefix("schöner title "))
        assert abs(brightness(example.images[0]) - 10 * number) <= 1
        assert (example.title, example.variant, example.weight) == ("", "", 1.0)
    assert sorted(source.texts()) == sorted(f"schöner title {i}" for i in range(12))
    later = [example.query for example in source.examples(range(12, 24))]
    assert sorted(later) == sorted(example.query for example in examples)
    assert later != [example.query for example in examples]


def test_one_of_several_tfds_texts_is_drawn(shop):
    source = TfdsSource("tfds:tiny_shop", text_key="captions/text", data_dir=shop)
    queries: dict[int, set[str]] = {}
    for example in source.examples(range(12 * 30)):
        number = round(brightness(example.images[0]) / 10)
        queries.setdefault(number, set()).add(example.query)
        assert example.said == tuple(f"caption {number} {j}" for j in range(number % 4))
    for number, drawn in queries.items():
        assert drawn == ({f"caption {number} {j}" for j in range(number % 4)} or {""})
    assert list(source.examples([7, 40])) == [*source.examples([7]), *source.examples([40])]


def test_nested_tfds_keys_splits_and_pickling(shop):
    source = TfdsSource("tfds:tiny_shop:1.2.0:test", "photo/front", "photo/note", data_dir=shop)
    examples = list(pickle.loads(pickle.dumps(source)).examples(range(3)))
    assert {example.query: brightness(example.images[0]) for example in examples} == {
        f"note {i}": pytest.approx(10 * i + 5, abs=1) for i in range(3)
    }
    assert len(TfdsSource("tfds:tiny_shop:train[:5]", text_key="title", data_dir=shop)) == 5
    fingerprints = {
        TfdsSource(spec, text_key=key, data_dir=shop, seed=seed).fingerprint
        for spec, key, seed in [
            ("tfds:tiny_shop", "title", 0),
            ("tfds:tiny_shop:train", "title", 0),
            ("tfds:tiny_shop:test", "title", 0),
            ("tfds:tiny_shop", "photo/note", 0),
            ("tfds:tiny_shop", "title", 1),
        ]
    }
    assert len(fingerprints) == 4


@pytest.mark.parametrize(
    ("spec", "keys", "error", "message"),
    [
        ("tfds:tiny_shop:tset", {}, UsageError, r"has no split 'tset': choose from test, train, or a slice of one"),
        ("tfds:tiny_shop:train[zz", {}, UsageError, r"has no split 'train\[zz'"),
        ("tfds:tiny_shop", {"text_key": "name"}, UsageError, r"no text feature 'name': choose from .*captions/text"),
        ("tfds:tiny_shop", {"image_key": "title"}, UsageError, r"no image feature 'title': choose from .*photo/front"),
        ("tfds:no_such_shop", {}, MaxsearchError, r"no TFDS dataset no_such_shop in .*: build it there"),
        ("tfds:mnist", {}, MaxsearchError, r"TFDS dataset mnist is not in .*: build it there"),
        ("tiny_shop", {}, UsageError, r"'tiny_shop' names no TFDS dataset: write tfds:NAME or tfds:NAME:SPLIT"),
    ],
)
def test_tfds_mistakes_are_named(shop, spec, keys, error, message):
    with pytest.raises(error, match=message) as caught:
        TfdsSource(spec, **({"text_key": "title"} | keys), data_dir=shop)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_tfds_is_mixed_with_prepared_data(shop):
    tfds = TfdsSource("tfds:tiny_shop", text_key="captions/text", data_dir=shop)
    turns = Turns([Segment(0, (0.5, 0.5), (0.5, 0.5))])
    source = MixtureSource({"a": CatalogueSource(catalogue([1.0, 2.0]), 0.0), "b": tfds}, turns, (0.5, 0.5), ())
    queries, products = list(source.query_texts()), list(source.product_texts())
    assert source.sizes == (len(queries), len(products)) == (14, 15)
    pairs = source.pairs(range(48)).tolist()
    for example, (query, product) in zip(source.examples(range(48)), pairs, strict=True):
        assert example.query in queries[query] or (example.query, queries[query]) == ("", [])
        assert products[product][0] == example.title
        assert example.product == product
    assert {product for _, product in pairs} == {0, 1, *range(3, 15)}


def test_tfds_without_random_access_is_refused(shop, tmp_path):
    folder = tmp_path / "tiny_shop" / "1.2.0"
    folder.mkdir(parents=True)
    for file in (shop / "tiny_shop" / "1.2.0").glob("*.json"):
        (folder / file.name).write_text(file.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(MaxsearchError, match=r"has no random access: build it again with file_format='array_record'"):
        TfdsSource("tfds:tiny_shop", text_key="title", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("tfds:coco", ("coco", "train")),
        ("tfds:coco:test", ("coco", "test")),
        ("tfds:coco/2014:1.1.0", ("coco/2014:1.1.0", "train")),
        ("tfds:coco/2014:1.1.0:train[:5%]", ("coco/2014:1.1.0", "train[:5%]")),
        ("tfds:coco:train[5:9]+test", ("coco", "train[5:9]+test")),
    ],
)
def test_tfds_names(spec, parts):
    assert parse_tfds(spec) == parts


def test_a_tfds_dataset_trains(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shop))
    words = ["train", tiny.preset(), "--data", "tfds:tiny_shop:train", "--data.text-key", "title", "--run", tmp_path]
    tiny.quiet(*words, "--steps", 2, "--data.batch-size", 8)
    lines = tiny.metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2]
    # Every product is a picture alone, so that only the terms that read pictures have anything to say.
    assert all(line["loss/query_title"] == 0 < line["loss/query_image"] for line in lines)
    assert all(line["weight/image"] == 1 for line in lines)

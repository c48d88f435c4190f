"""Several datasets as one source: what they number stays apart, and every part of each comes up in its turn."""

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import Config, DataConfig
from maxsearch.data.batches import StreamOptions
from maxsearch.data.keywords import Lexicon
from maxsearch.data.mixtures.keywords import merged
from maxsearch.data.mixtures.source import MixtureSource
from maxsearch.data.product_keywords import CatalogueKeywords
from maxsearch.data.records import Interaction, Product
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import make_stream
from maxsearch.data.tokenize import TextEncoder, train_tokenizer
from maxsearch.errors import UsageError
from maxsearch.training.mixing import mixture_of, named_places
from tests.test_stream import jpeg


@dataclass
class Shop:
    """A catalogue of numbered products, each clicked once, two variants to a group."""

    name: str
    count: int
    keywords: CatalogueKeywords | None = None
    products: list = field(init=False)
    interactions: list = field(init=False)

    def __post_init__(self):
        self.products = [
            Product(f"p{i}", f"{self.name} shirt {i}", (jpeg(i),), f"group {i // 2}") for i in range(self.count)
        ]
        self.interactions = [Interaction(f"{self.name} {i}", i) for i in range(self.count - 1)]
        self.interactions.append(Interaction("the same words", self.count - 1))

    @property
    def fingerprint(self):
        return f"{self.name} {self.count}"


def mixture(*words: str, sizes: dict[str, int] | None = None, **shops: Shop) -> MixtureSource:
    shops = shops or {name: Shop(name, size) for name, size in (sizes or {"big": 100, "small": 7}).items()}
    parts = {name: CatalogueSource(shop, 0.0) for name, shop in shops.items()}
    config = Config(data=DataConfig(batch_size=4, mixture=words))
    source = mixture_of(parts, config, {name: len(part) for name, part in parts.items()})
    assert isinstance(source, MixtureSource)
    return source


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 9))
def test_no_example_is_lost_or_repeated_in_an_epoch_of_its_dataset(a, b, one, other):
    source = mixture(f"a={one}@0,{other}@50,{one}@90", f"b={one}", sizes={"a": a, "b": b})
    drawn: dict[str, list[str]] = {"a": [], "b": []}
    for example in source.examples(range(600)):
        drawn[example.title.split()[0]].append(example.query)
    for name, size in (("a", a), ("b", b)):
        epochs = [drawn[name][i : i + size] for i in range(0, len(drawn[name]) - size + 1, size)]
        assert all(len(set(epoch)) == size for epoch in epochs)
    progress = source.progress(600)
    assert progress["epoch/a"] == len(drawn["a"]) / a
    assert progress["epoch/b"] == len(drawn["b"]) / b


def test_shares_are_those_of_the_weights_or_of_the_sizes():
    assert {n.split("/")[1]: v for n, v in mixture("big=1", "small=3").progress(0).items() if "share" in n} == {
        "big": 0.25,
        "small": 0.75,
    }
    plain = mixture(sizes={"big": 90, "small": 10})
    titles = Counter(example.title.split()[0] for example in plain.examples(range(1000)))
    assert titles == {"big": 900, "small": 100}
    assert len(plain) == 100
    none = mixture("big=0", "small=1")
    assert {example.title.split()[0] for example in none.examples(range(50))} == {"small"}
    assert none.progress(700)["epoch/small"] == 100


def test_products_and_variants_of_two_datasets_are_never_taken_for_one_another():
    source = mixture("big=1", "small=1", sizes={"big": 5, "small": 7})
    examples = list(source.examples(range(100)))
    by_product = {example.product: example.title for example in examples}
    assert set(by_product) == set(range(12))
    assert set(by_product.values()) == {f"{name} shirt {i}" for name, n in (("big", 5), ("small", 7)) for i in range(n)}
    by_variant: dict[str, set[str]] = {}
    for example in examples:
        by_variant.setdefault(example.variant, set()).add(example.title.split()[0])
    assert all(len(shops) == 1 for shops in by_variant.values())
    assert len(by_variant) == 3 + 4
    assert {example.title.split()[0] for example in examples if example.query == "the same words"} == {"big", "small"}


def test_pairs_number_the_texts_that_are_drawn():
    source = mixture("big=1", "small=2")
    queries, products = list(source.query_texts()), list(source.product_texts())
    assert source.sizes == (len(queries), len(products)) == (107, 107)
    pairs = source.pairs(range(300))
    for example, (query, product) in zip(source.examples(range(300)), pairs.tolist(), strict=True):
        assert queries[query] == (example.query,)
        assert products[product] == (example.title,)
        assert product == example.product
    assert len(set(source.groups(range(300)).tolist())) == 300


def test_texts_count_as_often_as_they_are_drawn():
    counts = Counter(text.split()[0] for text in mixture("big=1", "small=1").texts())
    assert counts["big"] == pytest.approx(counts["small"], rel=0.1)
    assert set(Counter(text.split()[0] for text in mixture("big=0", "small=1").texts())) == {"small", "the"}


def keyworded(name: str, count: int, words: tuple[str, ...], rows: list[tuple[int, ...]]) -> Shop:
    return Shop(name, count, SimpleNamespace(lexicon=Lexicon(words), products=rows))


def test_keywords_of_two_datasets_are_one_lexicon():
    big = keyworded("big", 2, ("shirt", "red", "big"), [(0, 1), (0, 2)])
    small = keyworded("small", 2, ("shoes", "shirts", "small"), [(0, 1), (0, 1)])
    source = mixture("big=3", "small=1", big=big, small=small)
    assert source.lexicon is not None
    words = source.lexicon.words
    # 7/8, 3/8, 1/4, 1/4, 1/12 by Zipf's law; the forms of one word are one keyword.
    assert words == ("shirt", "red", "big", "shoes", "small")
    for example in source.examples(range(40)):
        said = {words[place] for place in example.keywords}
        assert "shirt" in said
        assert ("shoes" in said) == example.title.startswith("small")
    # `big` knows no `small`, but a title that says it has it.
    big.products[0] = Product("p", "a small shirt")
    said = [example.keywords for example in source.examples(range(40)) if example.title == "a small shirt"]
    assert said and all(words.index("small") in ids and words.index("red") in ids for ids in said)
    assert mixture().lexicon is None
    assert merged([(Lexicon(("b", "a")), 0.5), (Lexicon(("a",)), 0.5)]).words == ("a", "b")


def test_a_dataset_without_keywords_leaves_them_to_its_texts():
    source = mixture("big=1", "small=1", big=keyworded("big", 2, ("shirt",), [(0,), ()]), small=Shop("small", 2))
    found = {example.title.split()[0]: example.keywords for example in source.examples(range(9))}
    assert found["big"] == (0,)
    assert found["small"] is None


def test_the_fingerprint_tells_what_is_drawn():
    kinds = [("big=1", "small=1"), ("big=2", "small=1"), ("big=1", "small=1@5,1@5"), ("big=1", "small=1@0,9@5")]
    assert len({mixture(*words).fingerprint for words in kinds}) == 4
    assert mixture("big=1", "small=2").fingerprint == mixture("small=2", "big=1").fingerprint


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 11), st.sampled_from([1, 2, 4]), st.integers(0, 2))
def test_a_mixed_stream_resumes_at_any_batch_on_any_hosts(position, hosts, threads):
    reference = mixed(0, 12, 1, 0)
    found = [mixed(position, 12 - position, hosts, threads, host) for host in range(hosts)]
    for name, arrays in reference.items():
        np.testing.assert_array_equal(np.concatenate([each[name] for each in found], axis=1), arrays[position:])


def mixed(start: int, count: int, hosts: int, threads: int, host: int = 0) -> dict[str, np.ndarray]:
    source = mixture("big=3@0,1@6", "small=1")
    tokenizer = train_tokenizer(source.texts(), 320)
    options = StreamOptions(4, 5, num_threads=threads, process_index=host, process_count=hosts)
    with make_stream(source, TextEncoder(tokenizer, 6), TextEncoder(tokenizer, 9), (8, 8), options) as stream:
        stream.restore(stream.state() | {"next_batch": start})
        batches = [next(stream) for _ in range(count)]
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def test_data_and_weights_that_do_not_fit_are_refused():
    shop = Shop("shop", 3)
    with pytest.raises(UsageError, match="--data a and b are the same data: give each once"):
        mixture("a=1", "b=1", a=shop, b=shop)
    with pytest.raises(UsageError, match=r"small has a share of 1e-05, of which no draw comes in 25,200"):
        mixture("big=99999", "small=1")
    huge = Shop("huge", 2)
    huge.products = range(2**31)
    with pytest.raises(UsageError, match="2,147,483,651 products together, and rows are numbered up to 2,147,483,648"):
        mixture("a=1", "b=1", a=huge, b=shop)


def test_datasets_are_called_like_their_folders(tmp_path):
    (tmp_path / "a=b").mkdir()
    words = ["x=one/shop", "two/my shop/", "tfds:coco/2014:1.1.0:train", f"{tmp_path}/a=b"]
    assert named_places(words) == {
        "x": "one/shop",
        "my_shop": "two/my shop/",
        "coco": "tfds:coco/2014:1.1.0:train",
        "a_b": f"{tmp_path}/a=b",
    }
    with pytest.raises(UsageError, match="--data one/data and two/data are both called data: give one as NAME=DATA"):
        named_places(["one/data", "two/data"])

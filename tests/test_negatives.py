"""Mined negatives in the stream: which draws follow which, on any hosts and workers, and folders that do not fit."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.data.batches import StreamOptions, query_hash
from maxsearch.data.keywords import Lexicon
from maxsearch.data.negatives import NEGATIVES, QUERIES, TABLE, MinedSource, Negatives, query_key
from maxsearch.data.product_keywords import CatalogueKeywords, ProductKeywords
from maxsearch.data.records import Interaction, Product
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import make_stream
from maxsearch.data.tokenize import TextEncoder, train_tokenizer
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import write_json
from maxsearch.manifest import MANIFEST, write_manifest
from tests.test_stream import BUSY, SIZE, FakeDataset, assert_same, shop, stacked, take

SHARE = 0.25


def write(folder: Path, dataset: FakeDataset, table: dict[str, list[int]], **changes: Any) -> Path:
    """A folder of these negatives by query."""
    folder.mkdir(parents=True)
    width = max(map(len, table.values()))
    rows = {query_key(query): row + [-1] * (width - len(row)) for query, row in table.items()}
    np.save(folder / TABLE, np.array([rows[key] for key in sorted(rows)], np.int32).reshape(-1, width))
    np.save(folder / QUERIES, np.array(sorted(rows), np.uint64))
    fields = {"data_fingerprint": dataset.fingerprint, "model_fingerprint": "m", "queries": len(rows)}
    write_manifest(folder, NEGATIVES, fields | {"per_query": width} | changes)
    return folder


def hard(dataset: FakeDataset) -> dict[str, list[int]]:
    """Two products for every query but the first one, which has none."""
    count = len(dataset.products)
    table = {each.query: [(each.product + 5) % count, (each.product + 7) % count] for each in dataset.interactions}
    return table | {dataset.interactions[0].query: []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = shop()
    return write(tmp_path_factory.mktemp("negatives") / "mined", dataset, hard(dataset))


@pytest.fixture(scope="module")
def encoders() -> tuple[TextEncoder, TextEncoder]:
    tokenizer = train_tokenizer(CatalogueSource(shop()).texts(), 320)
    return TextEncoder(tokenizer, 6), TextEncoder(tokenizer, 10)


def mined(folder: Path, share: float = SHARE, *, fraction: float = 1.0, seed: int = 5) -> MinedSource:
    dataset = shop()
    source = CatalogueSource(dataset, 1.0, seed=5, fraction=fraction)
    return MinedSource(source, Negatives.open(folder, dataset), share, seed)


@pytest.fixture(scope="module")
def reference(folder: Path, encoders: tuple[TextEncoder, TextEncoder]) -> dict[str, np.ndarray]:
    """Ten batches prepared one by one in this process."""
    return take(encoders, 10, source=mined(folder), num_threads=0)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7, 0.1])
def test_followers_are_mined_for_the_query_before_them(folder: Path, share: float) -> None:
    dataset = shop()
    source = CatalogueSource(dataset, 1.0, seed=5)
    examples = list(mined(folder, share).examples(range(2000)))
    leaders = list(source.examples(range(2000)))
    table, clicks = hard(dataset), {(each.query, each.product) for each in dataset.interactions}
    followers = led = 0
    for d, example in enumerate(examples):
        if round((d + 1) * share, 6) // 1 == round(d * share, 6) // 1:
            assert example == leaders[led]
            led += 1
            continue
        followers += 1
        assert (example.query, example.product) in clicks  # a click of its own, whatever it follows
        expected = table[leaders[led - 1].query]
        assert example.product in expected or not expected
    assert followers == round(2000 * share)


def test_a_leader_and_its_followers_are_one_group_and_pairs_tell_what_is_drawn(folder: Path) -> None:
    source, dataset = mined(folder, 0.7), shop()
    groups = source.groups(range(1000)).tolist()
    assert groups == sorted(groups) and max(Counter(groups).values()) == 4
    _, leaders = zip(*(source._place(draw) for draw in range(1000)), strict=True)
    assert [one != two for one, two in pairwise(groups)] == [not each for each in leaders[1:]]
    for example, (query, product) in zip(source.examples(range(200)), source.pairs(range(200)).tolist(), strict=True):
        assert dataset.interactions[query].query == example.query
        assert (product, example.product) == (dataset.interactions[query].product,) * 2


def test_every_negative_and_each_of_its_clicks_is_drawn(folder: Path) -> None:
    """By the weights of the clicks: of product 5 they are 2 and 4."""
    drawn = list(mined(folder, 0.5).examples(range(8_000)))
    after = Counter(two.query for one, two in zip(drawn[::2], drawn[1::2], strict=True) if two.product == 5)
    assert after.keys() == {each.query for each in shop().interactions if each.product == 5}
    shares = {each.query: each.weight for each in shop().interactions if each.product == 5}
    for query, weight in shares.items():
        assert after[query] / after.total() == pytest.approx(weight / sum(shares.values()), abs=0.07)
    products = Counter(two.product for one, two in zip(drawn[::2], drawn[1::2], strict=True))
    assert set(products) == set(range(14))


def test_no_follower_asks_for_what_the_product_before_it_is(tmp_path: Path) -> None:
    """Of the negative's two clicks one asks for a red shirt, which the product before it is as well."""
    dataset = FakeDataset(
        [Product("0", "red cotton shirt"), Product("1", "blue shirt")],
        [Interaction("cotton shirts", 0), Interaction("red shirt", 1), Interaction("blue shirt", 1)],
    )
    negatives = Negatives.open(write(tmp_path / "negatives", dataset, {"cotton shirts": [1]}), dataset)

    def asked() -> float:
        drawn = list(MinedSource(CatalogueSource(dataset), negatives, 0.5).examples(range(3000)))
        followers = [two.query for one, two in zip(drawn[::2], drawn[1::2], strict=True) if one.product == 0]
        return followers.count("red shirt") / len(followers)

    assert asked() == pytest.approx(1 / 2, abs=0.08)
    table = np.full((2, 48), -1, np.int16)
    table[0, :3], table[1, :2] = [0, 1, 2], [3, 2]
    np.save(tmp_path / "keywords.npy", table)
    words = Lexicon(("red", "cotton", "shirt", "blue"))
    dataset.keywords = CatalogueKeywords(words, ProductKeywords(tmp_path / "keywords.npy"))
    # What is drawn in its place may be any of the three interactions.
    assert asked() == pytest.approx(1 / 2 * 1 / 3, abs=0.06)


def test_a_batch_begins_with_no_follower(folder: Path, reference: dict[str, np.ndarray]) -> None:
    leaders = [each.query for each in CatalogueSource(shop(), 1.0, seed=5).examples(range(60))]
    kept = np.delete(reference["query"], [3, 7], axis=1)
    np.testing.assert_array_equal(kept.ravel(), [query_hash(query) for query in leaders])


def test_an_epoch_is_longer_by_the_followers(folder: Path) -> None:
    source = mined(folder, 0.25)
    assert len(source) == 38  # 28 interactions, of which each fourth draw is none
    assert (source.lexicon, list(source.texts())) == (None, list(CatalogueSource(shop()).texts()))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(
    folder: Path, encoders: tuple[TextEncoder, TextEncoder], reference: dict[str, np.ndarray], threads: int
) -> None:
    assert_same(take(encoders, 10, source=mined(folder), num_threads=threads), reference)


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_take_slices_of_the_same_batches(
    folder: Path, encoders: tuple[TextEncoder, TextEncoder], reference: dict[str, np.ndarray], hosts: int
) -> None:
    """Of eight hosts the fourth and the eighth have followers alone."""
    options = {"source": mined(folder), "process_count": hosts, "num_threads": 0}
    slices = [take(encoders, 10, process_index=host, **options) for host in range(hosts)]
    assert_same({name: np.concatenate([piece[name] for piece in slices], axis=1) for name in reference}, reference)


def test_a_stream_resumes_with_another_number_of_workers(
    folder: Path, encoders: tuple[TextEncoder, TextEncoder], reference: dict[str, np.ndarray]
) -> None:
    options = StreamOptions(8, seed=5, augment=BUSY)
    with make_stream(mined(folder), *encoders, SIZE, replace(options, num_workers=2)) as stream:
        batches = [next(stream) for _ in range(3)]
        saved = json.loads(json.dumps(stream.state()))
    with make_stream(mined(folder), *encoders, SIZE, options) as stream:
        stream.restore(saved)
        batches += [next(stream) for _ in range(7)]
    assert_same(stacked(batches), reference)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2))
def test_a_stream_resumes_at_any_batch_on_any_hosts(
    folder: Path,
    encoders: tuple[TextEncoder, TextEncoder],
    reference: dict[str, np.ndarray],
    position: int,
    hosts: int,
    threads: int,
) -> None:
    source = mined(folder)
    with make_stream(source, *encoders, SIZE, StreamOptions(8, seed=5)) as stream:
        saved = stream.state() | {"next_batch": position}
    pieces = []
    for host in range(hosts):
        options = {"process_index": host, "process_count": hosts, "num_threads": threads}
        pieces.append(take(encoders, 10 - position, source=source, start=saved["next_batch"], **options))
    whole = {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in reference}
    assert_same(whole, {name: array[position:] for name, array in reference.items()})


@settings(deadline=None, max_examples=60)
@given(st.floats(0.001, 0.999), st.integers(0, 2**40), st.integers(1, 40))
def test_any_draws_are_those_of_any_other_slice(folder: Path, share: float, start: int, count: int) -> None:
    source = mined(folder, share)
    whole = list(source.examples(range(start, start + count)))
    cut = count // 3
    parts = [*source.examples(range(start, start + cut)), *source.examples(range(start + cut, start + count))]
    assert whole == parts


def test_a_fraction_is_followed_by_kept_products_alone(folder: Path) -> None:
    kept = {each.product for each in CatalogueSource(shop(), 1.0, seed=5, fraction=0.5).examples(range(300))}
    assert 2 < len(kept) < 12
    assert {each.product for each in mined(folder, 0.5, fraction=0.5).examples(range(2000))} == kept


def test_another_drawing_of_negatives_is_another_stream(
    folder: Path, encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path
) -> None:
    dataset = shop()
    other = write(tmp_path / "other", dataset, hard(dataset) | {dataset.interactions[1].query: [9]})
    first = mined(folder)
    with make_stream(first, *encoders, SIZE, StreamOptions(8)) as stream:
        saved = stream.state()
    for source in (mined(other), mined(folder, 0.5), mined(folder, seed=6), CatalogueSource(shop(), 1.0, seed=5)):
        assert source.fingerprint != first.fingerprint
        with (
            make_stream(source, *encoders, SIZE, StreamOptions(8)) as stream,
            pytest.raises(MaxsearchError, match="belongs to other data, or another drawing of them"),
        ):
            stream.restore(saved)


def test_queries_differ_by_more_than_case_and_spaces(folder: Path) -> None:
    negatives = Negatives.open(folder, shop())
    assert negatives.of("Green Shirt 1").tolist() == negatives.of(" green  SHIRT 1").tolist() == [6, 8]
    assert negatives.of("nobody asked").tolist() == negatives.of(shop().interactions[0].query).tolist() == []
    assert query_key("Variant") == 14_356_828_513_493_381_381  # printf variant | b2sum -l 64, little-endian


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1e-9])
def test_an_impossible_share_is_refused(folder: Path, share: float) -> None:
    with pytest.raises(UsageError, match=r"the share of mined negatives is .*: choose a number above 0 and below 1"):
        mined(folder, share)


def test_a_folder_that_does_not_fit_is_told(tmp_path: Path) -> None:
    dataset = shop()
    good = write(tmp_path / "good", dataset, hard(dataset))

    def refused(folder: Path, said: str) -> None:
        with pytest.raises(MaxsearchError, match=said) as caught:
            Negatives.open(folder, dataset)
        assert str(caught.value).endswith("mine them again with `maxsearch mine`")

    refused(tmp_path / "none", "no negatives folder at .*none")
    refused(tmp_path, "is not a maxsearch negatives folder")
    (tmp_path / "good" / MANIFEST).rename(tmp_path / "kept")
    manifest = json.loads((tmp_path / "kept").read_text())
    for change, said in (
        ({"kind": "maxsearch-index"}, "its manifest's kind is 'maxsearch-index'"),
        ({"schema_version": 2}, "has schema version 2 .* and this maxsearch reads version 1"),
        (
            {"data_fingerprint": "0123456789abcdef"},
            "mined from other data than these .fingerprint 0123456789ab, here abcdef",
        ),
        ({"queries": 3}, "hold another table than their manifest says"),
        ({"per_query": "2"}, "has no 'per_query' of type int, so it was altered"),
    ):
        write_json(good / MANIFEST, manifest | change)
        refused(good, said)
    write_json(good / MANIFEST, manifest)
    Negatives.open(good, dataset)
    table = (good / TABLE).read_bytes()
    (good / TABLE).write_bytes(table[:-1] + b"\x01")
    refused(good, f"{TABLE} was altered")
    (good / TABLE).write_bytes(table[:-4])
    refused(good, f"{TABLE} holds {len(table) - 4} bytes where the negatives manifest says {len(table)}")
    (good / TABLE).unlink()
    refused(good, f"{TABLE} is missing")
    refused(write(tmp_path / "beyond", dataset, {"red shirt": [14]}), "hold another table")

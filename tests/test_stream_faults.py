"""Bad records met while training: masked alike everywhere, counted, and named when there are too many."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.batches import StreamOptions
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.faults import Faults
from maxsearch.data.probe import batches_ahead, probe_prefetch
from maxsearch.data.records import Product
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import make_stream
from maxsearch.data.transforms import Augment
from maxsearch.errors import MaxsearchError
from maxsearch.prepare.run import PrepareOptions, prepare
from tests import tiny
from tests.test_stream import SIZE, FakeDataset, assert_same, encoders, jpeg, shop, stacked, take

__all__ = ["encoders"]  # the fixture

DAMAGED = 7  # the product whose record is spoilt


@pytest.fixture
def spoilt(tmp_path: Path) -> PreparedDataset:
    """Prepared data of 12 products in two shards, of which one record was overwritten after they were opened."""
    lines = [f"p{i},{i:04d}-{'word ' * 40}{i}\n" for i in range(12)]
    (tmp_path / "products.csv").write_text("product_id,title\n" + "".join(lines))
    (tmp_path / "clicks.csv").write_text("query,product_id\n" + "".join(f"red {i},p{i}\n" for i in range(12)))
    options = PrepareOptions(tmp_path / "products.csv", tmp_path / "clicks.csv", tmp_path / "data", shard_records=6)
    prepare(options)
    dataset = PreparedDataset.open(tmp_path / "data")
    shard = tmp_path / "data/products-00001-of-00002.array_record"
    content = bytearray(shard.read_bytes())
    blank = Product("", "")
    assert dataset.products[DAMAGED] != blank
    assert spoil(content, dataset, shard)
    return reopened(dataset)


def reopened(dataset: PreparedDataset) -> PreparedDataset:
    """The dataset without open files; unlike `open` it reads no record, which the type checks of tests do."""
    copy: PreparedDataset = pickle.loads(pickle.dumps(dataset))
    return copy


def spoil(content: bytearray, dataset: PreparedDataset, shard: Path) -> bool:
    """Flips bits of the shard so that the one record cannot be read, and the others can."""
    for place in range(0, len(content), 16):
        content[place] ^= 0x55
        shard.write_bytes(content)
        fresh = reopened(dataset)
        bad = []
        for row in range(6, 12):
            try:
                fresh.products[row]
            except MaxsearchError:
                bad.append(row)
        if bad == [DAMAGED]:
            return True
        content[place] ^= 0x55
    return False


@pytest.mark.parametrize("augment", [None, Augment(query_word_drop=0.3, drop_title=0.2)])
def test_an_unreadable_record_is_masked_and_the_rest_is_as_ever(encoders, spoilt, augment):
    options = StreamOptions(6, augment=augment, num_threads=0)
    with make_stream(CatalogueSource(spoilt), *encoders, SIZE, options) as stream:
        batches = stacked([next(stream) for _ in range(4)])  # two epochs
        assert stream.faults.counts == {"undecodable_images": 0, "unreadable_records": 2}
        shard = spoilt.path / "products-00001-of-00002.array_record"
        assert stream.faults.example.startswith(f"record 1 of the data shard {shard} is damaged (")
    masked = batches["product"] == -1
    assert masked.sum() == 2
    assert sorted(batches["product"][~masked].tolist()) == sorted(2 * [i for i in range(12) if i != DAMAGED])
    assert (batches["weight"][masked] == 0).all() and (batches["weight"][~masked] > 0).all()
    for name in ("query_mask", "title_mask", "image_present"):
        assert not batches[name][masked].any()
    assert (batches["query"][masked] == -1).all() and (batches["variant"][masked] == -1).all()
    assert (batches["image"][masked] == 255).all()


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_mask_the_same_examples(encoders, spoilt, hosts):
    source = CatalogueSource(spoilt)
    whole = take(encoders, 4, source=source, batch_size=6)
    slices = [
        take(encoders, 4, source=source, batch_size=6, process_index=i, process_count=hosts) for i in range(hosts)
    ]
    assert_same({name: np.concatenate([piece[name] for piece in slices], axis=1) for name in whole}, whole)
    assert (whole["product"] == -1).any()


def test_workers_mask_the_same_examples(encoders, spoilt):
    source = CatalogueSource(spoilt)
    assert_same(take(encoders, 4, source=source, num_workers=2), take(encoders, 4, source=source))


def test_a_product_of_which_only_a_bad_picture_is_known_is_masked(encoders):
    products = [Product("a", "red shirt", (jpeg(1),)), Product("b", "", (b"none",)), Product("c", "cap", (b"none",))]
    dataset = FakeDataset(products, [replace(click, product=i % 3) for i, click in enumerate(shop().interactions[:6])])
    options = StreamOptions(6, num_threads=0, augment=None)
    with make_stream(CatalogueSource(dataset, 0.0), *encoders, SIZE, options) as stream:
        batch = next(stream)
        assert stream.faults.counts == {"undecodable_images": 4, "unreadable_records": 0}
    assert sorted(batch["product"].tolist()) == [-1, -1, 0, 0, 2, 2]
    titled = batch["product"] == 2
    assert batch["title_mask"][titled].any() and not batch["image_present"][titled].any()


def test_too_many_end_the_stream_with_the_first_one_named(encoders, spoilt):
    options = StreamOptions(6, num_threads=0, augment=None, max_bad_fraction=0.0)
    shard = spoilt.path / "products-00001-of-00002.array_record"
    stream = make_stream(CatalogueSource(spoilt), *encoders, SIZE, options)
    with stream, pytest.raises(MaxsearchError) as caught:
        for _ in range(2):
            next(stream)
    said = str(caught.value)
    assert said.startswith("1 unreadable records among ")
    assert "more than --data.max-bad-fraction 0 allows; the first: record 1 of the data shard" in said
    assert str(shard) in said


def test_the_limit_is_a_share_of_ten_thousand_examples_at_least():
    faults = Faults()
    for _ in range(10):
        faults.add("undecodable_images", "somewhere")
    faults.check(20, 0.001)
    with pytest.raises(MaxsearchError, match=r"10 undecodable images among 20 examples are more than .* 0.0009 allows"):
        faults.check(20, 0.0009)
    faults.check(100_000, 0.0001)
    faults.add("unreadable_records", "elsewhere")
    with pytest.raises(MaxsearchError, match=r"10 undecodable images and 1 unreadable records .*the first: somewhere"):
        faults.check(100_000, 0.0001)


def test_a_run_ends_above_the_limit(tmp_path):
    data = tmp_path / "data"
    tiny.quiet("prepare", *tiny.prepare_words(data))
    dataset = PreparedDataset.open(data)
    shard = Path(dataset.products._shards[0].filename)
    tokenizer = tiny.run() / "tokenizer"
    size = tiny.config().model.vocab_size
    content = shard.read_bytes()
    shard.write_bytes(content[:65536] + bytes(len(content) - 65536))
    words = ["train", tiny.preset(), "--data", data, "--run", tmp_path / "run", "--data.tokenizer", tokenizer]
    done = tiny.spawn([*words, "--model.vocab-size", size, "--data.max-bad-fraction", 0.0])
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert re.match(r"maxsearch: \d+ unreadable records among \d+ examples are more than --data.max-bad-", said)
    assert f"of the data shard {shard} is damaged (" in said


def test_the_probe_holds_more_ahead_where_batches_differ():
    assert batches_ahead([0.1, 0.1, 0.1, 0.1], 10**6) == 2
    assert batches_ahead([0.1, 0.1, 0.1, 0.5], 10**6) == 5
    assert batches_ahead([0.01] * 20 + [0.5], 10**6) == 16
    assert batches_ahead([0.1, 0.1, 0.1, 0.5], 2**29) == 2
    assert batches_ahead([0.1, 0.1, 0.1, 0.5], 2**31) == 1
    loaded = []
    assert 2 <= probe_prefetch(lambda batch: loaded.append(batch) or {"x": np.zeros(3)}, 7) <= 16
    assert loaded == [7, 8, 9, 10, 11]


def test_a_probed_stream_is_the_same(encoders):
    assert_same(take(encoders, 5, prefetch=0, start=2), take(encoders, 5, num_threads=0, start=2))

import io
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maxsearch.data.batches import StreamOptions, hash31, query_hash
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Interaction, Product
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import make_stream
from maxsearch.data.tokenize import TextEncoder, train_tokenizer
from maxsearch.data.transforms import Augment, eval_image
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.prepare.run import PrepareOptions, prepare

SIZE = (12, 9)
COLOURS = ("red", "green", "blue", "black", "white")
BUSY = Augment(brightness=0.1, contrast=0.1, drop_title=0.3, drop_image=0.3, title_word_drop=0.3, query_word_drop=0.3)
BAD, PICTURELESS, TITLELESS = 3, 4, 5


@dataclass
class FakeDataset:
    products: list = field(default_factory=list)
    interactions: list = field(default_factory=list)
    fingerprint: str = "abcdef0123456789" * 4
    keywords: None = None


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((24, 32), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def shop(count: int = 14) -> FakeDataset:
    products = []
    for i in range(count):
        images = {BAD: (jpeg(i)[:100],), PICTURELESS: ()}.get(i, (jpeg(i),))
        title = "" if i == TITLELESS else f"{COLOURS[i % 5]} cotton shirt number {i}"
        products.append(Product(f"p{i}", title, images, variant=f"group {i // 2}" if i % 3 else ""))
    interactions = [Interaction(f"{COLOURS[i % 5]} Shirt {i}", i % count, 1.0 + i % 4) for i in range(2 * count)]
    return FakeDataset(products, interactions)


@pytest.fixture(scope="module")
def encoders():
    tokenizer = train_tokenizer(CatalogueSource(shop()).texts(), 320)
    return TextEncoder(tokenizer, 6), TextEncoder(tokenizer, 10)


def take(encoders, count, *, start=0, source=None, **options):
    """The first batches of a stream, as one dict of [count, B, ...] arrays."""
    options = {"batch_size": 8, "seed": 5, "augment": BUSY} | options
    source = source or CatalogueSource(shop(), 1.0, seed=5)
    with make_stream(source, *encoders, SIZE, StreamOptions(**options), start) as stream:
        return stacked([next(stream) for _ in range(count)])


def stacked(batches):
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def reference(encoders):
    """Ten batches prepared one by one in this process."""
    return take(encoders, 10, num_threads=0)


def test_batches_have_the_promised_shapes_and_types(reference):
    shapes = {name: (str(array.dtype), array.shape[1:]) for name, array in reference.items()}
    assert shapes == {
        "query_ids": ("int32", (8, 6)),
        "query_mask": ("bool", (8, 6)),
        "title_ids": ("int32", (8, 10)),
        "title_mask": ("bool", (8, 10)),
        "image": ("uint8", (8, 1, 12, 9, 3)),
        "image_present": ("bool", (8, 1)),
        "product": ("int32", (8,)),
        "variant": ("int32", (8,)),
        "query": ("int32", (8,)),
        "weight": ("float32", (8,)),
    }


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (2, 4), (5, 3)])
def test_threads_change_nothing(encoders, reference, threads, prefetch):
    assert_same(take(encoders, 10, num_threads=threads, prefetch=prefetch), reference)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_take_slices_of_the_same_batches(encoders, reference, hosts):
    slices = [take(encoders, 10, process_index=host, process_count=hosts) for host in range(hosts)]
    assert all(piece["product"].shape == (10, 8 // hosts) for piece in slices)
    assert_same({name: np.concatenate([piece[name] for piece in slices], axis=1) for name in reference}, reference)


def test_one_worker_changes_nothing(encoders, reference):
    batches = take(encoders, 10, num_workers=1, num_threads=0)
    assert_same(batches, reference)


def test_a_stream_resumes_with_another_number_of_workers(encoders, reference):
    """Two workers, saved after batch 3, continued in-process, and back to two workers for the rest."""
    source, options = CatalogueSource(shop(), 1.0, seed=5), StreamOptions(8, seed=5, augment=BUSY)
    with make_stream(source, *encoders, SIZE, replace(options, num_workers=2)) as stream:
        batches = [next(stream) for _ in range(3)]
        saved = json.loads(json.dumps(stream.state()))
        assert saved["next_batch"] == 3
        with make_stream(source, *encoders, SIZE, options) as other:
            other.restore(saved)
            batches += [next(other) for _ in range(3)]
            saved = other.state()
        stream.restore(saved)
        batches += [next(stream) for _ in range(4)]
        assert all(type(array) is np.ndarray for array in batches[-1].values())
    assert_same(stacked(batches), reference)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9), st.integers(0, 3))
def test_a_stream_resumes_at_any_batch(encoders, reference, position, threads):
    options = StreamOptions(8, seed=5, augment=BUSY, num_threads=threads)
    with make_stream(CatalogueSource(shop(), 1.0, seed=5), *encoders, SIZE, options) as stream:
        next(stream)
        stream.restore({**stream.state(), "next_batch": position})
        rest = stacked([next(stream) for _ in range(position, 10)])
    assert_same(rest, {name: array[position:] for name, array in reference.items()})


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 8), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2))
def test_a_stream_resumes_on_another_number_of_hosts(encoders, reference, position, before, after, threads):
    """Every host of the first run stops at the same batch; any of their states serves every host of the second."""
    source = CatalogueSource(shop(), 1.0, seed=5)

    def host(index, count):
        options = StreamOptions(8, 5, num_threads=threads, augment=BUSY, process_index=index, process_count=count)
        return make_stream(source, *encoders, SIZE, options)

    states = []
    for index in range(before):
        with host(index, before) as stream:
            stream.restore({**stream.state(), "next_batch": position})
            next(stream)
            states.append(json.dumps(stream.state()))
    assert len(set(states)) == 1
    pieces = []
    for index in range(after):
        with host(index, after) as stream:
            stream.restore(json.loads(states[0]))
            pieces.append(next(stream))
    whole = {name: np.concatenate([piece[name] for piece in pieces]) for name in reference}
    assert_same(whole, {name: array[position + 1] for name, array in reference.items()})


def test_a_stream_can_start_anywhere(encoders, reference):
    far = take(encoders, 3, start=7)
    assert_same(far, {name: array[7:] for name, array in reference.items()})


def test_seeds_change_what_is_shown(encoders, reference):
    other = take(encoders, 10, seed=6)
    np.testing.assert_array_equal(other["product"], reference["product"])
    assert (other["image"] != reference["image"]).any()
    assert (other["title_mask"] != reference["title_mask"]).any()


def test_an_epoch_draws_each_interaction_its_share_and_the_next_one_reshuffles(encoders):
    dataset = shop()
    source = CatalogueSource(dataset, 0.0, seed=2)
    batches = take(encoders, 14, source=source, batch_size=4, augment=None)  # 28 interactions, 7 batches an epoch
    expected = sorted(query_hash(interaction.query) for interaction in dataset.interactions)
    first, second = batches["query"][:7].ravel().tolist(), batches["query"][7:].ravel().tolist()
    assert sorted(first) == sorted(second) == expected
    assert first != second


def test_rows_hold_what_the_catalogue_says(encoders):
    dataset = shop()
    query_encoder, title_encoder = encoders
    batches = take(encoders, 7, augment=None)
    rows = {name: array.reshape(-1, *array.shape[2:]) for name, array in batches.items()}
    interactions = {query_hash(interaction.query): interaction for interaction in dataset.interactions}
    for i, product_row in enumerate(rows["product"]):
        interaction = interactions[rows["query"][i]]
        product = dataset.products[product_row]
        assert interaction.product == product_row
        assert rows["weight"][i] == interaction.weight
        assert rows["variant"][i] == (hash31(product.variant) if product.variant else -1)
        for name, encoder, text in (
            ("query", query_encoder, interaction.query),
            ("title", title_encoder, product.title),
        ):
            ids, mask = encoder([text])
            np.testing.assert_array_equal(rows[f"{name}_ids"][i], ids[0])
            np.testing.assert_array_equal(rows[f"{name}_mask"][i], mask[0])
        readable = product_row not in (BAD, PICTURELESS)
        assert rows["image_present"][i, 0] == readable
        np.testing.assert_array_equal(rows["image"][i, 0], eval_image(product.image if readable else None, SIZE))
    assert set(rows["product"]) == set(range(14))
    assert not rows["title_mask"][rows["product"] == TITLELESS].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_masked_and_counted(encoders, workers):
    source = CatalogueSource(shop(), 0.0)
    options = StreamOptions(7, augment=Augment(drop_title=1.0), num_workers=workers)
    with make_stream(source, *encoders, SIZE, options) as stream:
        batches = stacked([next(stream) for _ in range(4)])  # one epoch: each product twice
        assert stream.faults.counts == {"undecodable_images": 2, "unreadable_records": 0}
    present = batches["image_present"][..., 0]
    masked = batches["product"][~present]
    assert sorted(masked.tolist()) == [BAD, BAD, PICTURELESS, PICTURELESS]
    assert (batches["image"][~batches["image_present"]] == 255).all()
    # Titles are dropped only where a picture is left to look at.
    has_title = batches["title_mask"].any(-1)
    np.testing.assert_array_equal(has_title, ~present)


def test_dropped_modalities_leave_the_other(encoders):
    batches = take(encoders, 100, augment=Augment(drop_title=0.25, drop_image=0.5))
    whole = ~np.isin(batches["product"], (BAD, PICTURELESS, TITLELESS))
    title, image = batches["title_mask"].any(-1), batches["image_present"].any(-1)
    assert (title | image).all()
    assert abs((~title)[whole].mean() - 0.25) < 0.06
    assert abs((~image)[whole].mean() - 0.5) < 0.06
    assert (batches["image"][~image] == 255).all()
    assert (batches["title_ids"][~title] == 0).all()


def test_dropped_words_shorten_texts_but_not_the_query_hash(encoders):
    calm, busy = take(encoders, 20, augment=Augment()), take(encoders, 20, augment=Augment(query_word_drop=0.5))
    np.testing.assert_array_equal(calm["query"], busy["query"])
    assert busy["query_mask"].sum() < 0.85 * calm["query_mask"].sum()
    assert busy["query_mask"].any(-1).all()


def test_cached_pictures_change_nothing(encoders, reference):
    for size in (5_000, 10**7):  # room for one picture, and for all
        assert_same(take(encoders, 10, cache_images=size), reference)


def test_waiting_and_epochs_are_told(encoders):
    options = StreamOptions(8, num_threads=0, augment=None)
    with make_stream(CatalogueSource(shop()), *encoders, SIZE, options) as stream:
        assert (stream.epoch, stream.wait_seconds) == (0.0, 0.0)
        for _ in range(7):
            next(stream)
        assert stream.epoch == 2.0
        assert 0.0 < stream.wait_seconds < 10.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fingerprint": "0123456789abcdef"},
            r"belongs to other data, .*\(fingerprint 0123456789ab, here [0-9a-f]{12}\)",
        ),
        ({"batch_size": 16}, "has batch_size 16, but here it is 8"),
        ({"seed": 1}, "has seed 1, but here it is 0"),
        ({"next_batch": -1}, "next_batch -1, which is no batch"),
        ({"next_batch": "3"}, "next_batch '3', which is no batch"),
    ],
)
def test_a_foreign_state_is_refused(encoders, change, message):
    with make_stream(CatalogueSource(shop()), *encoders, SIZE, StreamOptions(8)) as stream:
        next(stream)
        with pytest.raises(MaxsearchError, match=message) as caught:
            stream.restore(stream.state() | change)
        assert str(caught.value).endswith("resume with what the run began with, or begin a new run")
        assert stream.state()["next_batch"] == 1  # as it was
        with pytest.raises(MaxsearchError, match="lacks one of next_batch, fingerprint, batch_size, seed"):
            stream.restore({"next_batch": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: choose at least 1"),
        ({"batch_size": 10, "process_count": 4}, "10 cannot be cut among 4 hosts: choose a multiple of 4"),
        ({"batch_size": 8, "process_index": 2, "process_count": 2}, "process_index is 2: choose from 0 to 1"),
        ({"batch_size": 8, "seed": -1}, "seed is -1: choose at least 0"),
        ({"batch_size": 8, "prefetch": -1}, "prefetch is -1: choose at least 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        StreamOptions(**options)


def test_impossible_arguments_are_refused(encoders):
    with pytest.raises(UsageError, match=r"image size \(0, 9\) is empty"):
        make_stream(CatalogueSource(shop()), *encoders, (0, 9), StreamOptions(8))
    with pytest.raises(UsageError, match="cannot start at batch -1"):
        make_stream(CatalogueSource(shop()), *encoders, SIZE, StreamOptions(8), start=-1)


class Broken(CatalogueSource):
    def examples(self, draws):
        raise MaxsearchError("the data shard x is damaged: run `maxsearch prepare` again")


@pytest.mark.parametrize(("workers", "threads"), [(0, 0), (0, 2), (1, 0)])
def test_a_failure_of_the_source_reaches_the_user_as_it_is(encoders, workers, threads):
    options = StreamOptions(8, num_workers=workers, num_threads=threads)
    with make_stream(Broken(shop()), *encoders, SIZE, options) as stream:
        with pytest.raises(MaxsearchError, match="the data shard x is damaged"):
            next(stream)
        assert stream.next_batch == 0


def test_query_hashes_ignore_case_width_and_spaces():
    assert query_hash("Red  SHIRT ") == query_hash("red shirt")
    assert query_hash("red shirt") != query_hash("redshirt")
    assert 0 <= query_hash("") < 2**31
    assert hash31("variant") == 1_954_204_727  # printf variant | b2sum -l 32, little-endian, without the top bit


def test_a_prepared_catalogue_streams_alike_in_workers(encoders, tmp_path):
    rows = [{"product_id": str(i), "title": f"shirt {i}", "image": jpeg(i)} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "products.parquet")
    clicks = "query,product_id,weight\n" + "".join(f"red {i},{i % 20},{1 + i % 3}\n" for i in range(30))
    (tmp_path / "clicks.csv").write_text(clicks)
    prepare(PrepareOptions(tmp_path / "products.parquet", tmp_path / "clicks.csv", tmp_path / "data", shard_records=8))
    source = CatalogueSource(PreparedDataset.open(tmp_path / "data"))
    here = take(encoders, 6, source=source, num_threads=3)
    assert set(here["product"].ravel()) == set(range(20))
    assert here["image_present"].any()
    assert_same(take(encoders, 6, source=source, num_workers=2, num_threads=1), here)

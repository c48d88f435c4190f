"""Batches of like length: few places stay empty, every example comes up as often as before, any stream is the same."""

from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import DataConfig, ModelConfig, TextConfig
from maxsearch.data.batches import StreamOptions, cut
from maxsearch.data.buckets.lengths import Lengths, saved_fingerprint
from maxsearch.data.buckets.order import Buckets, make_buckets
from maxsearch.data.buckets.shapes import Shape, choose_shapes
from maxsearch.data.records import Interaction, Product
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import make_stream
from maxsearch.data.tokenize import TextEncoder, train_tokenizer
from maxsearch.data.transforms import Augment
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.models.text import TextEncoder as TextTower
from tests.test_stream import jpeg

WORDS = ("red", "cotton", "shirt", "for", "tall", "people", "who", "like", "it", "loose")
BATCH, WINDOW = 4, 64


@dataclass
class Shop:
    """Products with titles of 1 to 10 words, whose second field has 0 to 4."""

    products: list
    interactions: list
    fingerprint: str = "shop"
    keywords: None = None


def shop(count: int = 50) -> Shop:
    lengths = np.random.default_rng(0).geometric(0.3, count).clip(1, 10)
    products = [
        Product(f"p{i}", " ".join(WORDS[:n]), (jpeg(i),), texts=(" ".join(WORDS[: i % 5]),))
        for i, n in enumerate(lengths)
    ]
    return Shop(products, [Interaction(" ".join(WORDS[: 1 + i % 3]) + f" {i}", i) for i in range(count)])


class Paired(CatalogueSource):
    """Draws 2 and 3, 4 and 5 and so on belong together."""

    def groups(self, draws):
        return np.asarray(draws, np.int64) // 2


@cache
def encoders() -> tuple[TextEncoder, TextEncoder]:
    tokenizer = train_tokenizer(CatalogueSource(shop()).texts(), 400)
    return TextEncoder(tokenizer, 9), TextEncoder(tokenizer, 8)


def buckets(limit: int = 4, *, fields: int = 1, kind=CatalogueSource, **more) -> Buckets:
    source = kind(shop(), 0.0)
    return make_buckets(source, Lengths.count(source, *encoders(), fields), BATCH, 3, limit=limit, **more)


def test_lengths_are_those_of_the_encoded_texts():
    source = CatalogueSource(shop(), 0.0)
    lengths = Lengths.count(source, *encoders(), 2)
    query_encoder, title_encoder = encoders()
    pairs = source.pairs(range(60))
    for example, (query, longest, together) in zip(source.examples(range(60)), lengths.of(pairs).tolist(), strict=True):
        assert query == query_encoder([example.query])[1].sum()
        fields = title_encoder([example.title, *example.texts])[1].sum(axis=1)
        assert (longest, together) == (fields.max(), fields.sum())
    assert lengths.longest == (int(lengths.queries.max()), 8)


def test_lengths_are_saved_and_damage_is_named(tmp_path):
    source = CatalogueSource(shop(), 0.0)
    lengths = Lengths.count(source, *encoders())
    folder = tmp_path / "lengths"
    assert saved_fingerprint(folder) is None
    lengths.save(folder, "abc")
    assert saved_fingerprint(folder) == "abc"
    again = Lengths.load(folder, source.sizes, 1)
    np.testing.assert_array_equal(again.queries, lengths.queries)
    np.testing.assert_array_equal(again.products, lengths.products)
    with pytest.raises(MaxsearchError, match=r"are those of other data: remove .*lengths, and repeat the command"):
        Lengths.load(folder, (3, 3), 1)
    (folder / "queries.npy").write_bytes(b"torn")
    with pytest.raises(MaxsearchError, match=r"token counts in .* cannot be read"):
        Lengths.load(folder, source.sizes, 1)


def test_shapes_are_those_that_save_most():
    lengths = np.array([[2, 3]] * 90 + [[2, 9]] * 9 + [[5, 20]])
    longest = Shape(5, 20)
    assert choose_shapes(lengths, longest, 1) == [longest]
    assert choose_shapes(lengths, longest, 3) == [longest, Shape(2, 3), Shape(2, 9)]
    # Another one would save nothing.
    assert len(choose_shapes(lengths, longest, 9)) == 3
    many = np.stack([np.arange(400) % 90, np.arange(400)], axis=1)
    found = choose_shapes(many, Shape(100, 500), 5)
    assert len(found) == 5 and found[0] == Shape(100, 500)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 8), st.integers(0, 1000), st.sampled_from([CatalogueSource, Paired]))
def test_every_draw_comes_up_once_in_its_window_and_fits(limit, window, kind):
    found = buckets(limit, kind=kind)
    numbers = range(window * WINDOW, (window + 1) * WINDOW)
    drawn = np.concatenate([found.draws(batch) for batch in numbers])
    first = window * WINDOW * BATCH
    np.testing.assert_array_equal(np.sort(drawn), np.arange(first, first + WINDOW * BATCH))
    for batch in numbers:
        tokens = found.lengths.of(found.source.pairs(found.draws(batch).tolist()))
        shape = found.shape(batch)
        assert tokens[:, 0].max() <= shape.query and tokens[:, 1].max() <= shape.title


def test_an_epoch_has_every_example_once():
    found, size = buckets(), len(shop().interactions)
    epochs = 32  # 1,600 draws, which do not fill whole windows
    windows = -(-epochs * size // (BATCH * WINDOW))
    drawn = np.sort(np.concatenate([found.draws(batch) for batch in range(windows * WINDOW)]))[: epochs * size]
    queries = found.source.pairs(drawn.tolist())[:, 0].reshape(epochs, size)
    np.testing.assert_array_equal(np.sort(queries, axis=1), np.tile(np.arange(size), (epochs, 1)))


def test_draws_that_belong_together_share_a_batch():
    found = buckets(kind=Paired)
    apart = together = 0
    for batch in range(2 * WINDOW):
        pairs = np.unique(found.draws(batch) // 2, return_counts=True)[1]
        together, apart = together + int((pairs == 2).sum()), apart + int((pairs == 1).sum())
    assert together > 10 * apart
    loose = np.concatenate([np.unique(buckets().draws(b) // 2, return_counts=True)[1] for b in range(WINDOW)])
    assert (loose == 2).mean() < 0.2


def test_batches_come_in_no_order_of_length_and_no_two_seeds_alike():
    found = buckets()
    places = [found.shape(batch).places(1) for batch in range(WINDOW)]
    assert len(set(places)) == 4
    assert places not in (sorted(places), sorted(places, reverse=True))
    other = Buckets(found.source, found.lengths, found.shapes, BATCH, 4)
    assert any((found.draws(batch) != other.draws(batch)).any() for batch in range(9))


def test_the_fewest_shapes_that_stay_below_the_stated_share_are_taken():
    paddings = {limit: buckets(limit).padding(0) for limit in (1, 2, 3, 8)}
    assert paddings[1] > paddings[2] > paddings[3] > paddings[8]
    found = buckets(0, max_padding=0.25)
    assert len(found.shapes) < 16
    assert max(found.padding(window) for window in (0, 1)) < 0.25
    fewer = Buckets(found.source, found.lengths, list(found.shapes)[1:], BATCH, 3)
    assert max(fewer.padding(window) for window in (0, 1)) >= 0.25
    with pytest.raises(
        UsageError, match=r"--data.max-padding 0.01 is not to be had: with 3 padded .*; raise it, or --data.buckets"
    ):
        buckets(3, max_padding=0.01)
    with pytest.raises(UsageError, match=r"data.max_padding must be at least 0 and below 1, not 1"):
        DataConfig(max_padding=1.0)


def test_the_stated_share_counts_the_places_of_the_batches():
    found = buckets(3)
    with make_stream(found.source, *encoders(), (8, 8), options(augment=None), buckets=found) as stream:
        batches = [next(stream) for _ in range(WINDOW)]
    masks = [batch[name] for batch in batches for name in ("query_mask", "title_mask")]
    empty = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)
    assert empty == pytest.approx(found.padding(0))
    assert {mask.shape for mask in masks} == {(BATCH, n) for shape in found.shapes for n in (shape.query, shape.title)}


def options(**more) -> StreamOptions:
    return StreamOptions(**({"batch_size": BATCH, "seed": 3, "augment": Augment(title_word_drop=0.3)} | more))


def batches_of(start: int, count: int, **more):
    found = buckets()
    with make_stream(found.source, *encoders(), (8, 8), options(**more), buckets=found) as stream:
        stream.restore(stream.state() | {"next_batch": start})
        return [next(stream) for _ in range(count)]


@cache
def reference():
    return batches_of(0, WINDOW + 6, num_threads=0)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, WINDOW + 2), st.sampled_from([1, 2, 4]), st.integers(0, 2))
def test_a_stream_resumes_at_any_batch_on_any_hosts(position, hosts, threads):
    found = [
        batches_of(position, 4, num_threads=threads, process_index=host, process_count=hosts) for host in range(hosts)
    ]
    for i, expected in enumerate(reference()[position : position + 4]):
        for name, array in expected.items():
            np.testing.assert_array_equal(np.concatenate([each[i][name] for each in found]), array)


def test_a_state_of_other_buckets_is_refused():
    few, many = buckets(2), buckets(4)
    with (
        make_stream(few.source, *encoders(), (8, 8), options(), buckets=few) as stream,
        make_stream(many.source, *encoders(), (8, 8), options(), buckets=many) as other,
        pytest.raises(MaxsearchError, match="belongs to other data, or another drawing of them"),
    ):
        other.restore(stream.state())


def test_a_shorter_batch_means_the_same(one_device, quick_compile):
    """Of two text fields, each keeps its own places; the text tower sees the same tokens at the same positions."""
    texts = [WORDS[0], " ".join(WORDS[:3]), " ".join(WORDS[3:5]), ""]
    encoder = encoders()[1]
    ids, mask = (x.reshape(2, -1) for x in encoder(texts))
    word = encoder.words(texts).reshape(2, 2, -1)
    word = np.where(word < 0, -1, word + 8 * np.arange(2)[:, None]).reshape(2, -1).astype(np.int32)
    whole = {"query_ids": ids, "title_ids": ids, "title_mask": mask, "title_word": word}
    short = cut(whole, Shape(5, 4), fields=2)
    assert short["query_ids"].shape == (2, 5) and short["title_ids"].shape == (2, 8)
    kept = np.tile(np.arange(8) < 4, 2)
    for name in ("title_ids", "title_mask"):
        np.testing.assert_array_equal(short[name], whole[name][:, kept])
    np.testing.assert_array_equal(short["title_word"] < 0, word[:, kept] < 0)
    assert short["title_word"].max() < 8
    for row in range(2):  # the same words are the same
        pairs = {(a, b) for a, b in zip(word[row, kept], short["title_word"][row], strict=True) if a >= 0}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})

    config = TextConfig(width=8, depth=0, heads=2, max_tokens=8)
    tower = TextTower(nnx.Rngs(0), config, ModelConfig(vocab_size=400), fields=2)
    tower.position[...] = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    full = np.asarray(tower(jnp.asarray(ids), jnp.asarray(mask)))[:, kept]
    found = np.asarray(tower(jnp.asarray(short["title_ids"]), jnp.asarray(short["title_mask"])))
    np.testing.assert_allclose(found[short["title_mask"]], full[short["title_mask"]], atol=1e-5)

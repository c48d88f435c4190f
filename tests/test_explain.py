"""Why a product has its score: what adds up to it, where maps point, and what is said when something is missing."""

import json
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.config import AlignConfig
from maxsearch.data.records import Product
from maxsearch.data.transforms import eval_image
from maxsearch.encode import Encoder
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.explain.contributions import shapley
from maxsearch.explain.explain import explain, explain_queries
from maxsearch.explain.maps import best_words, cells_of
from maxsearch.explain.pointing import play
from maxsearch.models.attribution import additive_parts
from maxsearch.models.fusion import KINDS
from maxsearch.training.state import model_graph
from tests import tiny
from tests.explained import RED_AT, Painter, scene
from tests.small import CONFIG, lively_params, make_batch, on_mesh, with_model

approx = pytest.approx


def peak(values) -> tuple[int, int]:
    return np.unravel_index(np.argmax(values), np.shape(values))


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_shapley_values_add_up_and_do_not_care_who_is_called_what(scores):
    both, title_only, image_only, neither = scores
    title, image = shapley(both, title_only, image_only, neither)
    assert neither + title + image == approx(both, abs=1e-9)
    assert shapley(both, image_only, title_only, neither) == (approx(image), approx(title))
    assert shapley(title_only, title_only, neither, neither)[1] == 0


@pytest.mark.usefixtures("quick_compile", "one_device")
@pytest.mark.parametrize(("kind", "visual_words"), [(kind, 2 if kind == "gated" else 0) for kind in KINDS])
def test_the_parts_of_every_tower_add_up_to_its_vector(kind, visual_words):
    fusion = replace(CONFIG.model.fusion, kind=kind, depth=0)
    settings = with_model(CONFIG, fusion=fusion, keywords=4, align=AlignConfig(visual_words=visual_words))
    graph = model_graph(settings, ((3,), (4,), (5,), (6,)))
    batch = make_batch(settings)
    names = {"ids": "title_ids", "mask": "title_mask", "image": "image", "present": "image_present"}

    def go(params, batch):
        model, b = nnx.merge(graph, params), {short: batch[name] for short, name in names.items()}
        vectors = model.encode_product(*(b[name] for name in names))
        return additive_parts(model, b), vectors.product, vectors.title

    parts, product, title = jax.device_get(jax.jit(go)(lively_params(settings), on_mesh(batch)))
    np.testing.assert_allclose(parts.sum(axis=1), product, atol=1e-5)
    assert parts.shape[1] == 3 + (visual_words > 0)
    if kind in ("gated", "modal_adaptation", "cross_attention"):
        cosine = (parts[2:, 0] * title[2:]).sum(axis=1) / np.linalg.norm(parts[2:, 0], axis=1)
        np.testing.assert_allclose(cosine, 1, atol=1e-4)  # a multiple of the title's vector, and no other
        np.testing.assert_allclose(parts[0, 0], 0, atol=1e-6)  # of a product without a title
    else:
        np.testing.assert_allclose(parts[:, :-1], 0, atol=1e-6)


@pytest.mark.parametrize("query", ["red shoe", "a shoe"])
def test_a_planted_model_is_taken_apart(query):
    product = scene("a shoe")
    told = explain(Painter(), query, product)
    by = told.contributions
    assert by.neither + by.title + by.image == approx(told.score, abs=1e-6)
    assert sum(value for _, value in by.parts) == approx(told.score, abs=1e-6)
    assert [name for name, _ in by.parts] == ["title", "image", "together"]
    only_picture = {word.word: word.effect for word in told.words}
    if query == "red shoe":
        assert by.image > 0.1
        assert only_picture["red"] > 0.01
        assert only_picture["shoe"] > 0.01
    else:
        assert by.image < 0  # the picture shows no shoe, so it turns the vector away
        assert only_picture["a"] == approx(0, abs=1e-6)


def test_maps_point_at_what_the_planted_model_sees():
    told = explain(Painter(), "red blue shoe", scene("a shoe"))
    maps = {one.word: one for one in told.maps if one.kind == "occlusion"}
    assert list(maps) == ["red blue shoe", "red", "blue", "shoe"]
    assert peak(maps["red"].values) in RED_AT
    assert peak(maps["blue"].values) not in RED_AT
    assert maps["red"].values[3][0] == approx(0, abs=1e-3)  # bare background
    assert maps["shoe"].peak <= 1e-6  # the picture alone has no shoe to lose
    for row, column in RED_AT:
        assert told.patch_words[row][column][0] == "red"
    assert told.patch_words[3][0] == ()
    assert told.patch_kind == "occlusion"


def test_an_aligner_adds_its_own_maps_and_names_patches():
    told = explain(Painter(aligns=True), "red shoe", scene("a shoe"))
    assert [(one.word, one.kind, one.asked) for one in told.maps] == [
        ("red shoe", "occlusion", True), ("red", "occlusion", True), ("shoe", "occlusion", True),
        ("red", "aligner", True), ("shoe", "aligner", True), ("blue", "aligner", False),
    ]  # fmt: skip
    red = told.maps[3]
    assert peak(red.values) == (0, 0)
    assert np.mean([one.values for one in told.maps if one.kind == "aligner"], axis=0) == approx(0, abs=1e-6)
    assert told.patch_kind == "aligner"
    assert told.patch_words[0][0][0] == "red"


def test_a_query_of_one_word_and_a_product_without_a_picture():
    told = explain(Painter(), "  Red ", Product("t", "a red shoe"))
    assert (told.maps, told.patch_words, told.contributions.image) == ((), (), approx(0, abs=1e-6))
    assert [(word.word, word.effect) for word in told.words] == [("Red", None)]
    assert [one.word for one in explain(Painter(), "Red", scene("")).maps] == ["Red"]
    with pytest.raises(UsageError, match="query is empty"):
        explain(Painter(), " \n", scene(""))
    with pytest.raises(MaxsearchError, match="not finite"):
        explain(Painter(broken=True), "red", scene(""))


def test_a_long_query_is_explained_in_bounded_time():
    told = explain(Painter(), " ".join(f"w{place}" for place in range(300)), scene("a shoe"))
    assert len(told.words) == 300
    assert [word.effect is None for word in told.words] == [False] * 24 + [True] * 276
    assert len(told.maps) == 25
    assert told.patch_words[0][0] == ()  # nothing asked for is lost anywhere


def test_what_is_told_is_json():
    told = explain(Painter(aligns=True), "red shoe", scene("a shoe"))
    value = json.loads(json.dumps(told.to_json()))
    assert value["kind"] == "maxsearch-explanation"
    assert value["maps"][0]["values"] == [list(row) for row in told.maps[0].values]
    assert value["contributions"]["title"] == told.contributions.title


def test_the_best_words_leave_out_what_is_not_felt():
    values = np.array([[[0.1, 0.5, 0.3, 0.5], [0.0, -1.0, 0.05, 0.0]]])
    assert best_words(values, "abcd") == ((("b", "d", "c"), ("c", "a", "d")),)
    assert best_words(values, "abcd", 0.2) == ((("b", "d", "c"), ()),)


@pytest.mark.parametrize(
    ("size", "patch", "cells"),
    [
        ((64, 48), 16, (8, 6)),
        ((64, 64), 16, (8, 8)),
        ((224, 224), 16, (7, 7)),
        ((32, 32), 16, (4, 4)),
        ((8, 8), 1, (8, 8)),
    ],
)
def test_occlusion_costs_at_most_64_products(size, patch, cells):
    assert cells_of(size, patch) == cells
    assert cells[0] * cells[1] <= 64


def test_the_game_counts_by_kind_of_map():
    box = [16, 0, 32, 16]
    record = {"product_id": "p", "image_edge": 64, "title_words": [{"word": "red", "box": [0, 0, 32, 32]}]}
    missed = {**record, "title_words": [{"word": "red", "box": [32, 32, 64, 64]}]}
    both = [scene("red", "p"), scene("red", "q")]
    figures = play(Painter(aligns=True), both, {"p": record, "q": {**missed, "product_id": "q"}}, 10)
    assert figures["maps"] == {
        name: {"pointing": 0.5, "best fixed": 0.5, "chance": 0.25, "words": 2}
        for name in ("occlusion", "aligner", "raw cosine")
    }
    assert play(Painter(), both, {"p": {**record, "title_words": [{"word": "red", "box": box}]}}, 1)["maps"] == {
        "occlusion": {"pointing": 1.0, "best fixed": 1.0, "chance": 1 / 16, "words": 1}
    }
    with pytest.raises(UsageError, match="names no word"):
        play(Painter(), both, {"z": record}, 10)


def test_a_trained_model_is_taken_apart():
    model = Encoder.from_model(tiny.model())
    rows = pq.read_table(tiny.catalogue() / "products.test.parquet").to_pylist()
    product = Product(rows[0]["product_id"], rows[0]["title"], (rows[0]["image"],))
    same = model.encode_painted(product, np.stack([eval_image(product.image, model.config.model.image.size)] * 3))
    whole = next(model.encode_products([product]))
    np.testing.assert_allclose(same, np.repeat(whole.p, 3, axis=0), atol=1e-5)
    for told in explain_queries(model, ["red wooden table", product.title], product):
        by = told.contributions
        assert told.score == approx(float(model.encode_queries([told.query])[0] @ whole.p[0]), abs=1e-5)
        assert by.neither + by.title + by.image == approx(told.score, abs=1e-6)
        assert sum(value for _, value in by.parts) == approx(told.score, abs=1e-5)
        assert sum(by.weights) == approx(1, abs=1e-5)
        assert np.shape(told.maps[0].values) == (4, 4)

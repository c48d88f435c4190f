"""Products that rank products, beside a plain loop, and the command on a drawn catalogue and on eSSPR's layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.catalogue import read_products
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.product_vectors import Source
from maxsearch.evaluation.same_style import (
    DIRECTIONS,
    SameStyleFigures,
    SameStyleOptions,
    evaluate_same_style,
    intervals,
    read_pairs,
)
from maxsearch.files import write_bytes
from tests import tiny
from tests.letter_encoder import LetterEncoder
from tests.test_layouts import picture

BRANDS = ("acme", "bolt", "")
KINDS = ("hat", "shoe")
PAIRS = [("p0", "p5"), ("p0", "p7"), ("p3", "p0"), ("p4", "p9"), ("p0", "p5"), ("p2", "p2"), ("p1", "gone")]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty products; each fifth has no title, each seventh no picture."""
    folder = tmp_path_factory.mktemp("style")
    rows = ["product_id,title,image,brand,kind,shop_group"]
    for number in range(20):
        picture(folder / f"{number}.jpg", f"#{12 * number:02x}8040")
        title = f"thing {number}" if number % 5 or number % 7 == 0 else ""
        image = f"{number}.jpg" if number % 7 else ""
        brand, kind = BRANDS[number % 3], KINDS[number % 2]
        rows.append(f"p{number},{title},{image},{brand},{kind},g{number // 2}")
    (folder / "products.csv").write_text("\n".join(rows) + "\n")
    (folder / "pairs.csv").write_text("\n".join(["left_id,right_id", *map(",".join, PAIRS)]) + "\n")
    return folder


def source(folder: Path) -> Source:
    return Source(folder / "products.csv", {"variant": "shop_group"}, folder)


def evaluated(folder: Path, paired: bool, **options: object) -> SameStyleFigures:
    pairs = read_pairs(folder / "pairs.csv", {}) if paired else None
    return evaluate_same_style(source(folder), pairs, LetterEncoder(), SameStyleOptions(**options))  # type: ignore[arg-type]


def by_loop(folder: Path, wanted: dict[str, set[str]], direction: str) -> list[int]:
    """Ranks by the definition: sort all others, and look for the first that is of the same style."""
    rows = read_products(folder / "products.csv", columns={}, image_dir=folder, edge=32)
    batches = {batch.products[0].product_id: batch for batch in LetterEncoder().encode_products(p for _, p in rows)}
    asking, asked = ({"m": "p"}.get(kind, kind) for kind in direction.split("-"))
    ranks = []
    for left, rights in wanted.items():
        product = batches[left].products[0]
        if {"p": True, "t": bool(product.title), "v": bool(product.images)}[asking]:
            score = {
                n: getattr(batches[left], asking)[0] @ getattr(b, asked)[0] for n, b in batches.items() if n != left
            }
            order = sorted(score, key=lambda name: -score[name])
            ranks.append(min(order.index(right) for right in rights) + 1)
    return ranks


@pytest.mark.parametrize("paired", [True, False])
def test_figures_are_those_of_a_plain_loop(catalogue: Path, paired: bool) -> None:
    every = (*DIRECTIONS, "m-t", "m-v")
    found = evaluated(catalogue, paired, directions=every, group=() if paired else ("brand", "kind"))
    wanted: dict[str, set[str]] = {}
    if paired:
        wanted = {"p0": {"p5", "p7"}, "p3": {"p0"}, "p4": {"p9"}}
    else:
        for number in range(20):
            same = {f"p{n}" for n in range(20) if (n % 3, n % 2) == (number % 3, number % 2) and n != number}
            if BRANDS[number % 3]:  # a product without a brand is of no style
                wanted[f"p{number}"] = same
    for direction in every:
        ranks = np.array(by_loop(catalogue, wanted, direction))
        metrics = found.directions[direction]
        assert metrics is not None and found.queries[direction] == len(ranks)
        assert metrics["mrr"].mean == pytest.approx((1 / ranks).mean())
        assert metrics["r@1"].mean == pytest.approx((ranks <= 1).mean())
        assert metrics["r@10"].mean == pytest.approx((ranks <= 10).mean())
        assert 0 <= metrics["r@10"].low <= metrics["r@10"].high <= 1


def test_the_variant_groups(catalogue: Path) -> None:
    found = evaluated(catalogue, False, group=("variant",), directions=("v-v",))
    ranks = by_loop(catalogue, {f"p{n}": {f"p{n ^ 1}"} for n in range(20)}, "v-v")
    assert found.queries == {"v-v": 17}
    assert found.directions["v-v"] is not None
    assert found.directions["v-v"]["mrr"].mean == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_what_is_left_out_is_counted(catalogue: Path) -> None:
    assert evaluated(catalogue, True).counts == {
        "products": 20,
        "products_with_same_style": 3,
        "queries": 3,
        "pairs": 4,
        "pairs_of_other_products": 1,
        "pairs_of_a_product_with_itself": 1,
        "products_rejected": {},
    }


def test_queries_are_drawn_by_seed(catalogue: Path) -> None:
    drawn = [
        evaluated(catalogue, False, group=("kind",), directions=("m-m",), most_queries=5, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert drawn[0].queries == {"m-m": 5} and drawn[0].counts["products_with_same_style"] == 20
    assert drawn[0].directions == drawn[1].directions != drawn[2].directions


def test_products_of_one_style_are_resampled_together() -> None:
    ranks, style = np.repeat([1, 20], 50), np.repeat([0, 1], 50)
    found = intervals(ranks, style)["r@1"]
    assert (found.mean, found.low, found.high) == (0.5, 0, 1)


def test_a_direction_that_nobody_can_ask_is_empty(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product_id,title,kind\na,x,1\nb,y,1\n")
    options = SameStyleOptions(("t-t", "v-m"), ("kind",))
    found = evaluate_same_style(Source(tmp_path / "products.csv", {}, None), None, LetterEncoder(), options)
    assert found.directions["v-m"] is None and found.queries == {"t-t": 2, "v-m": 0}
    assert found.directions["t-t"] is not None and found.directions["t-t"]["r@1"].mean == 1


def test_what_cannot_be_evaluated_is_said(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maxsearch.evaluation import same_style

    with pytest.raises(UsageError, match="give what is of the same style with either --pairs or --group"):
        evaluated(catalogue, True, group=("kind",))
    with pytest.raises(UsageError, match=r"--group colour is no column of .*: choose from brand, kind, variant"):
        evaluated(catalogue, False, group=("colour",))
    with pytest.raises(UsageError, match="--group title is no column"):
        evaluated(catalogue, False, group=("title",))
    with pytest.raises(MaxsearchError, match=r"the columns brand, shop_group make no two products of .* same-style"):
        evaluate_same_style(
            Source(catalogue / "products.csv", {}, catalogue),
            None,
            LetterEncoder(),
            SameStyleOptions(group=("brand", "shop_group")),
        )
    with pytest.raises(MaxsearchError, match="the pairs make no two products"):
        evaluate_same_style(source(catalogue), [("a", "b")], LetterEncoder(), SameStyleOptions())
    monkeypatch.setattr(same_style, "MOST_PAIRS", 100)
    with pytest.raises(
        MaxsearchError, match="--group kind makes 180 pairs, too many to be styles: name further columns"
    ):
        evaluated(catalogue, False, group=("kind",))


@pytest.mark.parametrize("direction", ["m", "m-x", "mm", ""])
def test_an_unknown_direction_is_told(direction: str) -> None:
    with pytest.raises(UsageError, match="is none: write two of m"):
        SameStyleOptions((direction,), ("kind",))


def test_the_command(catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["same-style", "--model", tiny.model(), "--products", catalogue / "products.csv", "--image-dir", catalogue]
    tiny.quiet(*words, "--pairs", catalogue / "pairs.csv", "--directions", "m-m", "t-m", "--out", tmp_path / "out.json")
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["kind"] == "maxsearch-same-style" and list(figures["directions"]) == ["m-m", "t-m"]
    assert "3 of 3 products that have same-style ones rank the other 19" in capsys.readouterr().out
    assert tiny.fails(capsys, *words, "--pairs", catalogue / "pairs.csv", "--map", "left_id=x")[0] == 2
    assert "there is no catalogue" in tiny.fails(capsys, "same-style", "--model", "m", "--group", "kind")[1]


def test_the_command_on_a_download(tmp_path: Path) -> None:
    names = "trigger_id,trigger_title,trigger_image_name,recall_id,recall_title,recall_image_name"
    rows = [f"t{n},red hat {n},t{n}.jpg,r{n},hat in red {n},r{n}.jpg" for n in range(3)]
    for n in range(3):
        for side in "tr":
            picture(tmp_path / f"{side}{n}.jpg", f"#{80 * n:02x}4020")
    write_bytes(tmp_path / "same_trigger_recall_pairs_information", "\n".join([names, *rows]).encode())
    tiny.quiet("same-style", "--model", tiny.model(), "--esspr", tmp_path, "--out", tmp_path / "out.json")
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["counts"]["products"], figures["counts"]["queries"]) == (6, 3)
    assert figures["directions"]["v-v"]["r@1"]["mean"] == 1  # the pictures of a pair are equal

"""`maxsearch explain`: its page as a browser shows it, its figures and JSON, and what it says of bad input."""

import json
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maxsearch.data.records import Product
from maxsearch.explain.explain import explain, explain_queries
from maxsearch.explain.figure import figure, write_figures
from maxsearch.explain.heat import coloured, shown_picture, tops
from maxsearch.explain.page import render, write_page
from tests import tiny
from tests.browser import DESKTOP, PHONE, shown
from tests.explained import Painter, scene
from tests.planted import picture
from tests.test_datastats_page import EVIL, Page

TEXT_ONLY = Product("t", "a red shoe without a picture")


def told(model=None, *products: Product, queries=("red blue shoe",)):
    explanations, pictures = [], []
    for product in products or (scene("a shoe"),):
        found = explain_queries(model or Painter(aligns=True), queries, product)
        explanations += found
        shot = None if product.image is None else shown_picture(product.image, (64, 64))
        pictures += [shot] * len(found)
    return explanations, pictures


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    long = scene("Donaudampfschifffahrtsgesellschaftskapitänsmützen" * 4, "x" * 90)
    write_page(path, *told(None, scene("a shoe"), long, TEXT_ONLY, queries=("red blue shoe", "e" * 300)))
    return path


@pytest.mark.parametrize(("size", "media"), [(DESKTOP, "screen"), (PHONE, "screen"), ((794, 1123), "print")])
def test_the_page_in_a_browser(page: Path, size: tuple[int, int], media: str) -> None:
    with shown(page, size, media=media) as one:
        assert one.errors == []
        assert one.overflow() <= 0
        assert one.page.locator("section.why").count() == 6
        assert one.page.locator("script").count() == 0
        heats = one.page.locator(".stage").first.locator("img")
        assert [heats.nth(place).evaluate("x => getComputedStyle(x).opacity") for place in (0, 1)] == ["1", "0"]
        broken = "[...document.images].filter(x => !x.complete || !x.naturalWidth).length"
        assert one.page.evaluate(broken) == 0


def test_keys_choose_the_map_that_the_large_picture_shows(page: Path) -> None:
    with shown(page) as one:
        chosen = "[...document.querySelector('.stage').children].findIndex(x => getComputedStyle(x).opacity == 1)"
        one.page.locator("input[type=radio]").first.focus()
        assert one.page.evaluate(chosen) == 0
        one.page.keyboard.press("ArrowRight")
        one.page.keyboard.press("ArrowRight")
        assert one.page.evaluate(chosen) == 2
        one.page.locator("label", has_text="the picture alone").first.click()
        assert one.page.evaluate(chosen) == -1


def test_strange_texts_are_only_texts(tmp_path: Path) -> None:
    product = scene(EVIL, f'i"{EVIL}')
    write_page(tmp_path / "page.html", *told(None, product, queries=(EVIL, "red \x00 shoe")))
    html = Page(tmp_path / "page.html")
    assert not html.named("script") and not html.named("a") and not html.named("link")
    assert all(one["src"].startswith("data:image/") for one in html.named("img"))
    assert EVIL in html.told("bdi") and "red \ufffd shoe" in html.told("bdi")
    assert (
        figure(explain(Painter(), "$\\frac{1}{$ " + EVIL, product), shown_picture(product.image, (64, 64)))[:4]
        == b"\x89PNG"
    )


def test_a_product_without_a_picture_says_so() -> None:
    html = render(*told(None, TEXT_ONLY))
    assert "This product has no picture, so there are no maps" in html
    assert 'type="radio"' not in html


def test_figures_are_large_and_keep_their_names_apart(tmp_path: Path) -> None:
    paths = write_figures(tmp_path / "out", *told(None, scene("a/b"), TEXT_ONLY, queries=("../red", "red")))
    assert [path.name for path in paths] == ["001-red-s.png", "002-red-s.png", "003-red-t.png", "004-red-t.png"]
    for path in paths:
        with Image.open(path) as image:
            assert image.width >= 1800


def test_colours_rise_from_nothing_to_the_common_top() -> None:
    (one,), _ = told(None)
    assert tops(one.maps) == {
        kind: max(m.peak for m in one.maps if m.kind == kind) for kind in ("occlusion", "aligner")
    }
    low, middle, high = coloured(((-1.0, 0.5, 1.0),), 1.0)[0].tolist()
    assert low[3] < middle[3] < high[3]
    assert sum(low[:3]) < sum(middle[:3]) < sum(high[:3])
    assert coloured(((0.2, 0.1),), 0.0)[0, 0].tolist() == low


def rows(path: Path, *products: tuple[str, str, bytes | None]) -> Path:
    ids, titles, images = zip(*products, strict=True)
    pq.write_table(pa.table({"product_id": ids, "title": titles, "image": pa.array(images, pa.binary())}), path)
    return path


def bomb() -> bytes:
    """A PNG of some hundred kilobytes that says it has 400 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (20_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def test_the_command_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tiny.catalogue() / "products.test.parquet"
    names = pq.read_table(file, columns=["product_id"]).column(0).to_pylist()[:2]
    out, figures, values = tmp_path / "page.html", tmp_path / "figures", tmp_path / "values.json"
    common = ("explain", "--model", tiny.model(), "--query", "red shoe", "table")
    tiny.quiet(*common, "--products", file, "--product", *names, "--out", out, "--png", figures, "--json", values)
    said = capsys.readouterr().out
    assert "'red shoe' and" in said and "share of the score" in said and "Where the picture answers" in said
    assert len(json.loads(values.read_text())) == 4 == len(list(figures.iterdir()))
    assert [one["product_id"] for one in json.loads(values.read_text())] == [names[0], names[0], names[1], names[1]]
    assert out.read_text().count('<section class="why">') == 4

    own = tmp_path / "own.png"
    own.write_bytes(picture("red", 40, 60, "PNG"))
    tiny.quiet(*common, "--image", own, "--title", "a thing", "--json", values)
    assert {(one["product_id"], one["title"]) for one in json.loads(values.read_text())} == {("own.png", "a thing")}
    capsys.readouterr()
    bare = rows(tmp_path / "bare.parquet", ("b", "a red shoe", None))
    tiny.quiet(*common, "--products", bare, "--product", "b")
    assert "has no picture, so there are no maps" in capsys.readouterr().out

    tiny.quiet(
        "explain",
        "--model",
        tiny.model(),
        "--products",
        file,
        "--alignments",
        tiny.catalogue() / "alignments.jsonl",
        "--most",
        "3",
        "--json",
        values,
    )
    assert list(json.loads(values.read_text())["maps"]) == ["occlusion"]
    assert "occlusion" in capsys.readouterr().out


def test_bad_input_is_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows(
        tmp_path / "p.parquet",
        ("shoe-1", "a shoe", picture("red")),
        ("bad", "a shoe", b"no picture"),
        ("shoe-2", "x", bomb()),
    )
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "bomb.png").write_bytes(bomb())
    model = ("--model", tiny.model())
    asked, of_file = (*model, "--query", "red"), ("--products", file, "--product")
    cases = [
        (2, "did you mean 'shoe-1' or 'shoe-2'", (*asked, *of_file, "shoe1")),
        (1, "'bad' in row 2 has an image that is not a JPEG", (*asked, *of_file, "shoe-1", "bad")),
        (1, "'shoe-2' in row 3 has an image of more than 50,000,000 pixels", (*asked, *of_file, "shoe-2")),
        (1, "text.png has an image that is not a JPEG", (*asked, "--image", tmp_path / "text.png")),
        (1, "bomb.png has an image of more than 50,000,000 pixels", (*asked, "--image", tmp_path / "bomb.png")),
        (2, "absent.png cannot be read", (*asked, "--image", tmp_path / "absent.png")),
        (2, "--query is empty", (*model, "--query", " ", *of_file, "shoe-1")),
        (2, "--query is empty", (*model, *of_file, "shoe-1")),
        (2, "either --run or --model", ("--query", "red", *of_file, "shoe-1")),
        (2, "--product ID, or --image", (*asked, "--products", file)),
        (2, "--product ID, or --image", (*asked, *of_file, "shoe-1", "--image", tmp_path / "text.png")),
        (2, "--title belongs to --image", (*asked, *of_file, "shoe-1", "--title", "x")),
        (2, "more than 200 pairs", (*model, "--query", *map(str, range(101)), *of_file, "a", "b")),
        (2, "is a folder", (*asked, *of_file, "shoe-1", "--out", tmp_path)),
        (2, "is a file", (*asked, *of_file, "shoe-1", "--png", file)),
        (2, "--step names a checkpoint", (*asked, *of_file, "shoe-1", "--step", "3")),
        (2, "give only these two", (*asked, "--products", file, "--alignments", file)),
    ]
    for code, sentence, words in cases:
        found = tiny.fails(capsys, "explain", *words)
        assert found[0] == code
        assert sentence in found[1]
        assert found[1].startswith("maxsearch: ")

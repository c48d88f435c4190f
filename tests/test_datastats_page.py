"""The page that `data view` writes: whole in itself, and safe from what titles and queries hold."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from maxsearch.datastats.charts import HEIGHT, WIDTH, histogram
from maxsearch.datastats.spread import Bar
from maxsearch.html.markup import THUMB_EDGE, text, thumbnail
from tests import tiny
from tests.planted import CLICKS, ROWS, TEST_CLICKS, TEST_ROWS, Row, picture, planted

EVIL = "<script>alert('x')</script><img src=http://evil.example/a.png onerror=\"alert(1)\">"
VOID = {"meta", "img", "input", "br", "line", "rect"}


class Page(HTMLParser):
    """Tags with their attributes, texts by the tag that holds them; every tag must be closed in its order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID or tag == "rect":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def told(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


def view(tmp_path: Path, *words: object) -> Page:
    tiny.quiet("data", "view", *words, "--out", tmp_path / "page.html")
    return Page(tmp_path / "page.html")


def test_the_page_of_two_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = planted(tmp_path, "train", ROWS, CLICKS)
    test = planted(tmp_path, "test", TEST_ROWS, TEST_CLICKS)
    page = view(tmp_path, train, test)
    assert re.fullmatch(rf"{tmp_path}/page\.html: 0\.\d MB\n", capsys.readouterr().out)
    alone(page)
    said = page.told("bdi")
    assert "Red Shoe" in said and "1 (14.3 %)" in said
    assert "same title and front image" in said
    assert len([one for one in page.named("article") if one["class"] == "card"]) == len(ROWS)
    labels = [one["aria-label"] for one in page.named("svg")]
    assert labels.count("Clicks per query") == labels.count("Image width") == 2
    assert "Text words" not in labels, "no product has further texts"


def alone(page: Page) -> None:
    """Asserts that nothing outside the page is named where a browser would fetch it."""
    assert not {"link", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert all(attributes[name].startswith("data:image/jpeg;base64,") for name in ("src",) if name in attributes)
        assert not {"href", "srcset", "action", "data", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert not any(re.search(r"url\(|@import|http|fetch|innerHTML", data) for data in page.told("style"))
    assert not any(re.search(r"https?:|fetch|innerHTML|import", data) for data in page.told("script"))
    (policy,) = (one["content"] for one in page.named("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_texts_of_the_data_are_only_texts(tmp_path: Path) -> None:
    rows: list[Row] = [
        (f'p"{EVIL}', EVIL, [picture("red")], f"v{EVIL}"),
        ("q", EVIL, [picture("red")], f"v{EVIL}"),
        ("r", "nul \x00 and \x1b[31m", [picture("blue")], ""),
    ]
    folder = planted(tmp_path, "data <b>&amp;", rows, [(EVIL, "q", 2.0), ("plain", "r", 1.0)])
    other = planted(tmp_path, "other", rows[:1], [(EVIL, 'p"' + EVIL, 1.0)])
    page = view(tmp_path, folder, other)
    alone(page)
    assert len(page.named("script")) == 1
    assert EVIL in page.told("bdi")
    assert f'id p"{EVIL}' in page.told("bdi")
    assert f"variant v{EVIL}" in page.told("bdi")
    assert str(folder) in page.told("bdi")
    assert {one["alt"] for one in page.named("img")} <= {EVIL, EVIL[:67] + "...", "nul \ufffd and \ufffd[31m"}


def test_the_drawn_catalogue_with_samples(tmp_path: Path) -> None:
    page = view(tmp_path, tiny.data(), "--samples", "12")
    alone(page)
    assert len(page.named("article")) == 12
    assert [one["id"] for one in page.named("input")] == ["find"]
    for one in page.named("img"):
        decoded = Image.open(io.BytesIO(base64.b64decode(one["src"].split(",")[1])))
        assert decoded.format == "JPEG" and max(decoded.size) <= THUMB_EDGE
    none = view(tmp_path, tiny.data(), "--samples", "0")
    assert not none.named("article") and not none.named("input")


def test_two_pages_are_equal_and_an_older_one_is_replaced(tmp_path: Path) -> None:
    train = planted(tmp_path, "train", ROWS, CLICKS)
    view(tmp_path, train)
    first = (tmp_path / "page.html").read_bytes()
    (tmp_path / "page.html").write_text("old")
    view(tmp_path, train)
    assert (tmp_path / "page.html").read_bytes() == first


def test_pieces() -> None:
    assert text("<a href='x'>&\x07") == "<bdi>&lt;a href=&#x27;x&#x27;&gt;&amp;\ufffd</bdi>"
    assert "unreadable" in thumbnail(b"no picture", "x")
    assert "no image" in thumbnail(None, "x")
    large = thumbnail(picture("red", 600, 300), 'a "quoted" title')
    assert 'alt="a &quot;quoted&quot; title"' in large
    decoded = Image.open(io.BytesIO(base64.b64decode(large.split("base64,")[1].split('"')[0])))
    assert decoded.size == (THUMB_EDGE, THUMB_EDGE // 2)


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_a_histogram_stays_in_its_frame(count: int) -> None:
    bars = [Bar(float(low), float(low + 1), low * 100_000) for low in range(count - 1)]
    svg = histogram([*bars, Bar(float(count - 1), float(count + 5), 3)], "a <label>")
    assert 'aria-label="a &lt;label&gt;"' in svg
    boxes = re.findall(r'<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)">', svg)
    assert len(boxes) == count
    for x, y, width, height in (map(float, box) for box in boxes):
        assert x >= 0 and x + width <= WIDTH and y >= 0 and y + height <= HEIGHT and height >= 0
    assert f"<title>{count - 1}+: 3</title>" in svg

"""The search page in a browser: search, filter, picture, "why", keys, keyboard."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from PIL import Image, ImageDraw

from maxsearch.data.records import Product
from maxsearch.serving.http.app import create_app
from maxsearch.serving.http.keys import Keys
from maxsearch.serving.http.options import ServeOptions
from tests.browser import DESKTOP, PHONE, Shown, shown
from tests.running import running
from tests.serving_engine import FakeEngine

COLOURS = ("red", "navy", "olive", "black")
HOSTILE = "<img src=x onerror=alert(1)>"


def picture(colour: str) -> bytes:
    stream = io.BytesIO()
    image = Image.new("RGB", (120, 160), "white")
    ImageDraw.Draw(image).ellipse((30, 40, 90, 120), fill=colour)
    image.save(stream, "PNG")
    return stream.getvalue()


def catalogue() -> list[Product]:
    products = [
        Product(
            f"p/{n}?",
            f"{COLOURS[n % 4]} shoes number {n}",
            (picture(COLOURS[n % 4]),),
            attributes={"colour": COLOURS[n % 4]},
        )
        for n in range(12)
    ]
    return [
        *products,
        Product("blank", "shoes without a picture"),
        Product("evil", HOSTILE, attributes={"colour": HOSTILE}),
    ]


def app(keys: Keys) -> FastAPI:
    return create_app(FakeEngine(catalogue()), ServeOptions(), keys)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(app(Keys())) as address:
        yield address


def until(one: Shown, condition: str) -> None:
    """Waits for what the page's policy forbids Playwright to watch by itself."""
    for _ in range(500):
        if one.page.evaluate(condition):
            return
        time.sleep(0.02)
    raise AssertionError(condition)


def ask(one: Shown, query: str) -> None:
    one.page.fill("#query", query)
    one.page.press("#query", "Enter")
    one.page.wait_for_selector("#results .card")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_search_filter_and_why(address: str, size: tuple[int, int], tmp_path: Path) -> None:
    with shown(address, size) as one:
        ask(one, "navy shoes")
        assert one.page.locator("#results .card").count() == 14
        assert "exact" in one.page.inner_text("#status")
        assert "generation g1" in one.page.inner_text("#generation")
        assert one.overflow() == 0
        one.page.click(".chip:has-text('navy')")
        until(one, "document.querySelectorAll('#results .card').length === 3")
        assert one.page.get_attribute(".chip:has-text('navy')", "aria-pressed") == "true"
        one.page.click("#results .card button:has-text('Why')")
        one.page.wait_for_selector("#whyBody canvas")
        assert "What title and picture add" in one.page.inner_text("#whyBody")
        one.page.click("#whyBody .chip:has-text('shoes')")
        assert one.page.get_attribute("#whyBody .chip:has-text('shoes')", "aria-pressed") == "true"
        assert one.overflow() == 0
        one.page.keyboard.press("Escape")
        assert not one.page.is_visible("#why")
        assert one.errors == []


def test_a_picture_is_searched_and_weighed(address: str, tmp_path: Path) -> None:
    file = tmp_path / "query.png"
    file.write_bytes(picture("olive"))
    with shown(address) as one:
        one.page.set_input_files("#file", str(file))
        one.page.wait_for_selector("#results .card")
        assert one.page.is_visible("#preview")
        ask(one, "shoes")
        one.page.click("#unpicture")
        assert not one.page.is_visible("#pictured")
        assert one.errors == []


def test_the_keyboard_alone_is_enough(address: str) -> None:
    with shown(address) as one:
        one.page.keyboard.type("red shoes")
        one.page.keyboard.press("Enter")
        one.page.wait_for_selector("#results .card")
        one.page.evaluate("document.activeElement.blur()")
        one.page.keyboard.press("ArrowRight")
        one.page.keyboard.press("ArrowRight")
        assert one.page.evaluate("[...document.querySelectorAll('.card')].indexOf(document.activeElement)") == 1
        one.page.keyboard.press("Enter")
        one.page.wait_for_selector("#why[open]")
        one.page.keyboard.press("Escape")
        one.page.keyboard.press("/")
        assert one.page.evaluate("document.activeElement.id") == "query"
        assert one.errors == []


def test_more_like_this_and_strangers_texts(address: str) -> None:
    with shown(address) as one:
        ask(one, "shoes")
        one.page.click("#results .card button:has-text('More like this')")
        one.page.wait_for_selector("#like:not([hidden])")
        until(one, "document.querySelectorAll('#results .card').length === 13")
        assert one.page.locator("h3", has_text=HOSTILE).count() == 1
        assert one.errors == []


def test_a_service_with_keys_asks_for_one() -> None:
    key = "r" * 32
    with running(app(Keys.read(None, {"MAXSEARCH_READ_KEY": key}))) as address, shown(address) as one:
        one.page.wait_for_selector("#key:not([hidden])")
        one.page.fill("#keyValue", key)
        one.page.click("#keySave")
        ask(one, "red shoes")
        until(one, "[...document.querySelectorAll('.card img')].some((image) => image.naturalWidth > 0)")
        assert [error for error in one.errors if "401" not in error] == []

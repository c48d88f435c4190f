"""A page in headless Chromium, and what its console said."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DESKTOP, PHONE = (1280, 800), (390, 844)
CANDIDATES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Shown:
    """A loaded page: Playwright's own, and every complaint of its console."""

    page: Any
    errors: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def chromium() -> str:
    """Where Chromium is; skips the test where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CANDIDATES)), None)
    if found is None:
        pytest.skip("needs Chromium on the PATH, or its path in CHROMIUM")
    return found


@contextmanager
def shown(url: str | Path, size: tuple[int, int] = DESKTOP, *, media: str = "screen") -> Iterator[Shown]:
    """Opens a file or an address in a window of `size` CSS pixels, as on screen or as in print."""
    executable = chromium()
    from playwright.sync_api import sync_playwright

    address = url.resolve().as_uri() if isinstance(url, Path) else url
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            one = Shown(page)
            page.on("console", lambda m: one.errors.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: one.errors.append(str(error)))
            page.on("requestfailed", lambda request: one.errors.append(f"failed: {request.url[:200]}"))
            page.emulate_media(media=media)
            page.goto(address)
            yield one
        finally:
            browser.close()

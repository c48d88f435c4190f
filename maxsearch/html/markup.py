"""Pieces of HTML. Every text that comes from data passes through `text`."""

import base64
import re
from collections.abc import Sequence
from html import escape

from maxsearch.data.images import fit_image
from maxsearch.data.records import Product
from maxsearch.data.tables.formats import BadRecord
from maxsearch.html.words import short

THUMB_EDGE = 112
THUMB_QUALITY = 80

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # HTML has no way to hold them


def text(value: str, *, isolate: bool = True) -> str:
    """A text as HTML, isolated so that its writing direction cannot turn around what stands beside it."""
    safe = escape(_CONTROLS.sub("\ufffd", value))
    return f"<bdi>{safe}</bdi>" if isolate else safe


def table(corner: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table whose lines begin with their name; it scrolls by itself where it is too wide."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{text(name)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}</tr>'
        for name, cells in lines
    )
    return (
        f'<div class="wide"><table><thead><tr><th scope="col">{text(corner)}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def thumbnail(data: bytes | None, title: str, *, lazy: bool = True) -> str:
    """A picture, scaled down, inside the page; a `lazy` one is decoded when it comes into view, as paper never does."""
    try:
        if data is None:
            return '<div class="none">no image</div>'
        small = fit_image(data, THUMB_EDGE, quality=THUMB_QUALITY)
    except BadRecord:
        return '<div class="none">unreadable</div>'
    encoded = base64.b64encode(small).decode("ascii")
    alt = text(short(title), isolate=False)
    loading = ' loading="lazy"' if lazy else ""
    return f'<img class="thumb"{loading} alt="{alt}" src="data:image/jpeg;base64,{encoded}">'


def mini(product: Product) -> str:
    """A product in a group of others: picture, title, identifier."""
    name = text(product.title) if product.title else '<span class="soft">no title</span>'
    identifier = f'<span class="soft">{text(product.product_id)}</span>'
    return f'<div class="mini">{thumbnail(product.image, product.title)}{name}<br>{identifier}</div>'

"""Explanations as one HTML page that needs nothing but itself, and no script.

The maps are radio buttons: clicks and arrow keys choose which one the large picture shows, by CSS alone.
"""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from maxsearch.errors import MaxsearchError
from maxsearch.explain.explanation import Explanation, HeatMap
from maxsearch.explain.heat import coloured, colours_of, tops
from maxsearch.explain.wording import MAP_TITLES, NO_PICTURE, PATCH_TITLES, addends, effects, kinds
from maxsearch.files import write_bytes
from maxsearch.html.document import document
from maxsearch.html.markup import text

JPEG_QUALITY = 85
STOPS = 9  # of a colour bar


def write_page(out: Path, explanations: Sequence[Explanation], pictures: Sequence[np.ndarray | None]) -> int:
    """Writes the page.

    Args:
      out: the HTML file, which appears whole or not at all.
      explanations: one section each.
      pictures: the front picture of each one's product, as `shown_picture` gives it; None without one.

    Returns:
      The size of the page in bytes.

    Raises:
      MaxsearchError: the file cannot be written.
    """
    page = render(explanations, pictures).encode("utf-8", "replace")
    try:
        write_bytes(out, page)
    except OSError as error:
        raise MaxsearchError(
            f"cannot write {out} ({error.strerror or error}): make room or choose another --out"
        ) from None
    return len(page)


def render(explanations: Sequence[Explanation], pictures: Sequence[np.ndarray | None]) -> str:
    """The page; arguments as for `write_page`."""
    named = {id(picture): f"p{place}" for place, picture in enumerate(pictures) if picture is not None}
    style = [files("maxsearch.explain").joinpath("page.css").read_text(encoding="utf-8")]
    for name, picture in {named[id(one)]: one for one in pictures if one is not None}.items():
        style.append(f".{name} {{ background-image: url({_uri(picture, 'JPEG')}); }}")
        style.append(f".picture.{name} {{ aspect-ratio: {picture.shape[1]} / {picture.shape[0]}; }}")
    most = max((len(one.maps) for one in explanations), default=0)
    style += [f".why:has(.r{place}:checked) .stage .m{place} {{ opacity: 1; }}" for place in range(most)]
    sections = [
        section(one, number, "" if picture is None else named[id(picture)])
        for number, (one, picture) in enumerate(zip(explanations, pictures, strict=True))
    ]
    return document("Why these products", sections, style="\n".join(style) + "\n")


def section(one: Explanation, number: int, picture: str) -> str:
    """One query and one product.

    Args:
      one: what is told.
      number: of the section on its page.
      picture: the CSS class that shows the picture; empty without one.
    """
    name = text(one.title) if one.title else '<span class="soft">no title</span>'
    more = f", {one.pictures} pictures of which the first is shown" if one.pictures > 1 else ""
    parts = [
        f'<section class="why"><h2>{text(one.query)}</h2>',
        f'<p><strong>{name}</strong> <span class="soft">{text(one.product_id)}{more}</span></p>',
        '<div class="head">',
        _stage(one, picture),
        f"<div>{_shares(one)}</div></div>",
        _maps(one, number, picture) if picture else f"<p>{text(NO_PICTURE)}</p>",
        _patches(one, picture) if one.patch_words else "",
        "</section>",
    ]
    return "\n".join(filter(None, parts))


def _stage(one: Explanation, picture: str) -> str:
    if not picture:
        return '<div class="none">no image</div>'
    highest = tops(one.maps)
    heats = "".join(
        f'<img class="m{place}" alt="" src="{_uri(coloured(map_.values, highest[map_.kind]), "PNG")}">'
        for place, map_ in enumerate(one.maps)
    )
    label = text(f"Picture of {one.title or one.product_id}", isolate=False)
    return f'<div class="picture stage {picture}" role="img" aria-label="{label}">{heats}</div>'


def _shares(one: Explanation) -> str:
    tables = [_bars("share of the score", addends(one), total=True)]
    if len(one.words) > 1:
        tables.append(_bars("loss without the word", effects(one), total=False))
    title, image = one.contributions.weights
    tables.append(
        f'<p class="soft">Weights in the product vector: title {title:.2f}, image {image:.2f}. '
        f"{text(_coalitions(one), isolate=False)}</p>"
    )
    if one.contributions.parts:
        added = ", ".join(f"{name} {value:+.3f}" for name, value in one.contributions.parts)
        tables.append(f'<p class="soft">What is summed in the product vector adds {text(added)}.</p>')
    return "\n".join(tables)


def _coalitions(one: Explanation) -> str:
    by = one.contributions
    return f"Score with the title alone {by.title_only:.3f}, with the image alone {by.image_only:.3f}."


def _bars(head: str, lines: Sequence[tuple[str, float]], *, total: bool) -> str:
    """A table of signed values with bars from a common zero line; the last one may be the sum of the others."""
    low, high = (pick(0.0, pick(value for _, value in lines)) for pick in (min, max))
    span = (high - low) or 1.0
    zero = -low / span * 100

    def bar(value: float) -> str:
        start, width = (min(value, 0.0) - low) / span * 100, abs(value) / span * 100
        return (
            f'<span class="track"><i style="left:{start:.1f}%;width:{width:.1f}%"></i>'
            f'<i class="zero" style="left:{zero:.1f}%"></i></span>'
        )

    rows = "".join(
        f'<tr{_sum(total and place == len(lines) - 1)}><th scope="row">{text(name)}</th>'
        f"<td>{value:+.3f}</td><td>{bar(value)}</td></tr>"
        for place, (name, value) in enumerate(lines)
    )
    return (
        f'<table class="shares"><thead><tr><th scope="col">{text(head)}</th><th scope="col">points</th><th></th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _sum(is_sum: bool) -> str:
    return ' class="total"' if is_sum else ""


def _maps(one: Explanation, number: int, picture: str) -> str:
    highest = tops(one.maps)
    parts: list[str] = []
    bare = (
        f'<label class="map"><input type="radio" name="map{number}"><span class="picture {picture}"></span>'
        "<strong>the picture alone</strong></label>"
    )
    place_of = {id(map_): place for place, map_ in enumerate(one.maps)}
    for (kind, asked), group in kinds(one.maps):
        cells = "".join(_map(map_, place_of[id(map_)], number, picture, highest[kind]) for map_ in group)
        title, note = MAP_TITLES[kind, asked]
        cells += "" if parts else bare
        parts.append(
            f'<h3>{text(title)}</h3><p class="soft">{text(note)}</p>{_key(highest[kind])}'
            f'<fieldset class="maps" aria-label="{text(title, isolate=False)}">{cells}</fieldset>'
        )
    return "\n".join(parts)


def _map(map_: HeatMap, place: int, number: int, picture: str, top: float) -> str:
    checked = " checked" if place == 0 else ""
    return (
        f'<label class="map"><input type="radio" name="map{number}" class="r{place}"{checked}>'
        f'<span class="picture {picture}">'
        f'<img alt="" src="{_uri(coloured(map_.values, top), "PNG")}"></span>'
        f'<strong>{text(map_.word)}</strong><span class="soft">peak {map_.peak:.3f}</span></label>'
    )


def _key(top: float) -> str:
    steps = colours_of(np.linspace(0, 1, STOPS))
    colours = ", ".join(f"rgb({r} {g} {b} / {alpha / 255:.2f})" for r, g, b, alpha in steps.tolist())
    return f'<p class="key">0 or less <i style="--ramp:linear-gradient(to right, {colours})"></i> {top:.3f}</p>'


def _patches(one: Explanation, picture: str) -> str:
    rows, columns = len(one.patch_words), len(one.patch_words[0])

    def cell(row: int, column: int) -> str:
        across = 100 * column / max(columns - 1, 1)
        down = 100 * row / max(rows - 1, 1)
        words = "<br>".join(map(text, one.patch_words[row][column]))
        return (
            f'<td><span class="crop {picture}" style="background-size:{columns * 100}% {rows * 100}%;'
            f'background-position:{across:.2f}% {down:.2f}%"></span>{words}</td>'
        )

    body = "".join(f"<tr>{''.join(cell(row, column) for column in range(columns))}</tr>" for row in range(rows))
    title, note = PATCH_TITLES[one.patch_kind]
    return (
        f'<h3>{text(title)}</h3><p class="soft">{text(note)}</p>'
        f'<div class="wide" tabindex="0"><table class="patches"><tbody>{body}</tbody></table></div>'
    )


def _uri(pixels: np.ndarray, kind: str) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(buffer, kind, **({"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

"""The report as one HTML page that needs nothing but itself."""

from importlib.resources import files
from pathlib import Path

from maxsearch.errors import MaxsearchError
from maxsearch.files import write_bytes
from maxsearch.html.document import document
from maxsearch.html.markup import text
from maxsearch.report.charts.bars import HATCH
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.sections.ablations import ablations
from maxsearch.report.sections.glance import glance, warnings
from maxsearch.report.sections.index import index
from maxsearch.report.sections.quality import quality
from maxsearch.report.sections.setup import config, data, surroundings
from maxsearch.report.sections.slices import slices
from maxsearch.report.sections.training import training
from maxsearch.report.sections.weights import weights
from maxsearch.report.sections.worst import worst

SECTIONS = (glance, quality, slices, weights, worst, ablations, training, index, data, config, surroundings)


def render(inputs: Inputs) -> str:
    """The page."""
    parts = [section(inputs) for section in SECTIONS]
    items = "".join(f'<li><a href="#{part.anchor}">{text(part.title, isolate=False)}</a></li>' for part in parts)
    contents = f'<nav aria-label="Contents"><ul>{items}</ul></nav>'
    main = f"{HATCH}<main>{warnings(inputs)}{''.join(part.html() for part in parts)}</main>"
    style = files("maxsearch.report").joinpath("report.css").read_text(encoding="utf-8")
    name = inputs.run.name
    return document(f"Report: {name}", [f'<div class="frame">{contents}{main}</div>'], style=style)


def write_page(inputs: Inputs, out: Path) -> int:
    """Writes the page, which appears whole or not at all.

    Returns:
      Its size in bytes.

    Raises:
      MaxsearchError: the file cannot be written.
    """
    page = render(inputs).encode("utf-8", "replace")
    write_text(out, page, "--out")
    return len(page)


def write_text(out: Path, content: bytes, flag: str) -> None:
    """Writes a file beside its place and renames it into it.

    Raises:
      MaxsearchError: it cannot be written.
    """
    try:
        write_bytes(out, content)
    except OSError as error:
        raise MaxsearchError(
            f"cannot write {out} ({error.strerror or error}): make room or choose another {flag}"
        ) from None

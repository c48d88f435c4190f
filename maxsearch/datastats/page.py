"""The figures as one HTML page that needs nothing but itself."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from maxsearch.data.dataset import PreparedDataset
from maxsearch.datastats.card import card
from maxsearch.datastats.charts import histogram
from maxsearch.datastats.report import DatasetFigures, Leakage, Report, Tokens, describe
from maxsearch.datastats.spread import Spread
from maxsearch.datastats.table import duplicates, leaks, overview, spreads
from maxsearch.datastats.wording import SPREAD_COLUMNS, shared_names
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import write_bytes
from maxsearch.html.document import document
from maxsearch.html.markup import mini, table, text
from maxsearch.progress import Progress

MOST_SAMPLES = 2000


def write_page(
    datasets: Sequence[PreparedDataset],
    out: Path,
    tokens: Tokens | None = None,
    *,
    samples: int = 60,
    progress: Progress | None = None,
) -> int:
    """Describes the datasets and writes the page.

    Args:
      datasets: what `open_datasets` gave; sample products are of the first.
      out: the HTML file, which appears whole or not at all.
      tokens: how to count tokens; None counts words only.
      samples: how many products to show, evenly spaced.
      progress: where to report.

    Returns:
      The size of the page in bytes.

    Raises:
      UsageError: too many samples are asked for.
      MaxsearchError: a shard is damaged, or the file cannot be written.
    """
    if not 0 <= samples <= MOST_SAMPLES:
        raise UsageError(f"--samples {samples} is out of range: give 0 to {MOST_SAMPLES}")

    def chosen(products: int) -> list[int]:
        count = min(samples, products)
        return [place * products // count for place in range(count)]

    report, scans = describe(datasets, tokens, sampled=chosen, progress=progress)
    first = datasets[0]
    cards = [
        card(first.products[at], float(scans[0].clicks[at]), queries) for at, queries in scans[0].queries_of.items()
    ]
    page = render(report, datasets, cards).encode("utf-8", "replace")
    try:
        write_bytes(out, page)
    except OSError as error:
        raise MaxsearchError(
            f"cannot write {out} ({error.strerror or error}): make room or choose another --out"
        ) from None
    return len(page)


def render(report: Report, datasets: Sequence[PreparedDataset], cards: Sequence[str]) -> str:
    """The page.

    Args:
      report: the figures.
      datasets: those that it describes, for the pictures of its examples.
      cards: HTML of the sample products.
    """
    by_name = dict(zip((one.name for one in report.datasets), datasets, strict=True))
    names = [one.name for one in report.datasets]
    sections = [
        "<h2>At a glance</h2>",
        table("", names, overview(report.datasets)),
        *(f'<p class="soft">{text(note)}</p>' for note in report.notes),
        *(_leakage(report, pair, by_name) for pair in report.leakage),
        *(_dataset(one, by_name[one.name]) for one in report.datasets),
        _samples(names[0], cards),
    ]
    script = files("maxsearch.datastats").joinpath("page.js").read_text(encoding="utf-8")
    return document(f"Data: {', '.join(names)}", sections, script=script)


def _dataset(one: DatasetFigures, data: PreparedDataset) -> str:
    parts = [f"<h2>{text(one.name)}</h2>", _charts(one), table("", SPREAD_COLUMNS, spreads(one))]
    parts.append("<h3>Duplicates</h3>")
    parts.append(table("products with the", ("groups", "products", "share", "largest group"), duplicates(one)))
    for kind in one.repeats:
        if kind.groups:
            parts.append(f"<h3>{text(kind.what.capitalize())}: the first of the largest groups</h3>")
        for group in kind.examples:
            parts.append(f'<div class="group">{"".join(mini(data.products[at]) for at in group)}</div>')
    return "\n".join(parts)


def _charts(one: DatasetFigures) -> str:
    figures: dict[str, Spread | None] = {
        **{name.capitalize(): values for name, values in one.activity.items()},
        **{name.capitalize(): values for name, values in one.lengths.items()},
        **{(name if " " in name else f"image {name}").capitalize(): values for name, values in one.pictures.items()},
    }
    drawn = [
        f"<figure><figcaption>{text(name)}</figcaption>{histogram(values.histogram, name)}</figure>"
        for name, values in figures.items()
        if values is not None
    ]
    return f'<div class="charts">{"".join(drawn)}</div>'


def _leakage(report: Report, pair: Leakage, by_name: dict[str, PreparedDataset]) -> str:
    parts = [
        f"<h2>In both {text(pair.first)} and {text(pair.second)}</h2>",
        table("", ("distinct", "of the first", "of the second"), leaks(pair)),
    ]
    for kind in pair.shared:
        if not kind.values:
            continue
        parts.append(f"<h3>{text(kind.what.capitalize())} in both: the first</h3>")
        if kind.what == "queries":
            items = "".join(f"<li>{text(name)}</li>" for name in shared_names(report, pair.first, pair.second, kind))
            parts.append(f"<ul>{items}</ul>")
            continue
        for ours, theirs in kind.examples:
            both = mini(by_name[pair.first].products[ours]) + mini(by_name[pair.second].products[theirs])
            parts.append(f'<div class="group">{both}</div>')
    return "\n".join(parts)


def _samples(name: str, cards: Sequence[str]) -> str:
    if not cards:
        return ""
    return (
        f"<h2>Samples of {text(name)}</h2>\n"
        '<div class="search"><label for="find">Words of titles, queries, attributes</label>'
        '<input id="find" type="search" autocomplete="off"> <span id="found" class="soft" role="status"></span></div>\n'
        f'<div class="cards">{"".join(cards)}</div>'
    )

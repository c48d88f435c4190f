"""How series are told apart: each has a place in the colour-blind safe palette of Okabe and Ito, a marker, and a dash.

The colours themselves are in report.css (classes s0 to s6), where they turn lighter on a dark page.
"""

from html import escape

from maxsearch.evaluation.embedded import IMAGE_ONLY, OURS, TEXT_ONLY

STYLES = 7
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "12 4", "4 2 1 2 1 2")
SIZE = 5.0  # half the width of a marker, in pixels
KNOWN = {OURS: 0, TEXT_ONLY: 1, IMAGE_ONLY: 2, "BM25": 3, "random": 6}


def styles_of(names: list[str]) -> dict[str, int]:
    """A style per name: the known systems have theirs on every chart, the others take what is left, in order."""
    taken = {KNOWN[name] for name in names if name in KNOWN}
    free = [style for style in range(STYLES) if style not in taken] or list(range(STYLES))
    others = [name for name in names if name not in KNOWN]
    given = {name: free[number % len(free)] for number, name in enumerate(others)}
    return {name: KNOWN.get(name, given.get(name, 0)) for name in names}


def marker(style: int, x: str, y: str, *, title: str = "") -> str:
    """A marker around (x, y), which may be percentages."""
    r = SIZE
    shape = (
        f'<circle r="{r}"/>',
        f'<rect x="{-r + 0.5}" y="{-r + 0.5}" width="{2 * r - 1}" height="{2 * r - 1}"/>',
        f'<path d="M0 {-r - 0.5}L{r + 0.5} {r - 0.5}H{-r - 0.5}Z"/>',
        f'<path d="M0 {-r - 1}L{r + 1} 0L0 {r + 1}L{-r - 1} 0Z"/>',
        f'<path d="M0 {r + 0.5}L{r + 0.5} {-r + 0.5}H{-r - 0.5}Z"/>',
        f'<path class="stroked" d="M{-r} 0H{r}M0 {-r}V{r}"/>',
        f'<path class="stroked" d="M{-r + 1} {-r + 1}L{r - 1} {r - 1}M{-r + 1} {r - 1}L{r - 1} {-r + 1}"/>',
    )[style % STYLES]
    told = f"<title>{escape(title)}</title>" if title else ""
    return f'<svg class="mark s{style % STYLES}" x="{x}" y="{y}" overflow="visible">{told}{shape}</svg>'


def key(style: int) -> str:
    """The marker in a line of text."""
    return f'<svg class="key" viewBox="-7 -7 14 14" aria-hidden="true">{marker(style, "0", "0")}</svg>'

"""Figures and texts in words, alike on the terminal and on a page."""

LONGEST = 70


def number(value: int | float) -> str:
    """A count or measure: thousands apart, whole numbers without a point, others with one or two digits behind it."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(share: float) -> str:
    """A share; what is there is never told as 0."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.1f} %"


def short(text: str) -> str:
    """A text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."

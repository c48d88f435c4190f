"""A section of the page, and what stands where it has no input."""

from collections.abc import Sequence
from dataclasses import dataclass

from maxsearch.html.markup import table, text


@dataclass(frozen=True)
class Part:
    """A section.

    Attributes:
      anchor: its id.
      title: plain text.
      body: HTML.
    """

    anchor: str
    title: str
    body: str

    def html(self) -> str:
        """The section."""
        return f'<section id="{self.anchor}"><h2>{text(self.title)}</h2>\n{self.body}</section>'


def missing(what: str, command: str, flag: str = "") -> str:
    """Says which command gives what is missing.

    Args:
      what: that there is none, in a sentence.
      command: that makes it.
      flag: by which the report takes it; empty when it finds it by itself.
    """
    then = f", then <code>maxsearch report ... {text(flag, isolate=False)}</code>" if flag else ""
    return f'<p class="missing">{text(what)} <code>{text(command, isolate=False)}</code>{then}.</p>'


def numbers(caption: str, corner: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A chart's numbers, folded."""
    return f"<details><summary>{text(caption)}</summary>{table(corner, columns, lines)}</details>"


def said(sentence: str) -> str:
    """A sentence below a chart."""
    return f'<p class="soft">{text(sentence)}</p>' if sentence else ""

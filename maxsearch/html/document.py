"""The frame of a page: one file, no network."""

from collections.abc import Sequence
from importlib.resources import files

from maxsearch.html.markup import text
from maxsearch.manifest import created_by

# Titles and queries are strangers' texts: should one ever get through the escaping, the browser still loads nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(title: str, sections: Sequence[str], *, style: str = "", script: str = "") -> str:
    """A page around its sections.

    Args:
      title: plain text.
      sections: HTML, in order.
      style: CSS behind the one of every page.
      script: JavaScript, run when the sections stand.
    """
    shared = files("maxsearch.html").joinpath("page.css").read_text(encoding="utf-8")
    end = f"\n<script>\n{script}</script>" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title, isolate=False)}</title>\n"
        f"<style>\n{shared}{style}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n"
        f'<p class="soft">Written by {text(created_by())}.</p>\n' + "\n".join(sections) + f"{end}\n</body>\n</html>\n"
    )

"""The products of a prepared folder as a table, to prepare, rank or index them again."""

import json
from pathlib import Path

from maxsearch.data.tables.files import Columns, Table
from maxsearch.data.tables.formats import Rows
from maxsearch.manifest import MANIFEST

MOST_TEXTS = 32  # text fields; the shards do not say how many there are before all have been read


class PreparedProducts(Table):
    """Every product of a folder that `maxsearch prepare` wrote.

    Its own fields are columns in brackets, for attributes may have their names.
    """

    fields: Columns = {  # noqa: RUF012 - read only
        "title": "(title)",
        "image": "(image)",
        "variant": "(variant)",
        "text": tuple(f"(text {number})" for number in range(1, MOST_TEXTS + 1)),
    }

    def __init__(self, path: Path) -> None:
        """Takes the folder, unopened."""
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def names(self, what: str) -> list[str] | None:
        """None: each product has attributes of its own."""
        return None

    def rows(self, what: str) -> Rows:
        """The products in their order.

        Raises:
          MaxsearchError: the folder is damaged.
        """
        from maxsearch.data.dataset import PreparedDataset

        for row, product in enumerate(PreparedDataset.open(self._path).products, start=1):
            texts = {f"(text {number})": text for number, text in enumerate(product.texts, start=1)}
            yield (
                row,
                {
                    **product.attributes,
                    "product_id": product.product_id,
                    "(title)": product.title,
                    "(image)": list(product.images),
                    "(variant)": product.variant,
                    **texts,
                },
            )

    def count(self, what: str) -> int | None:
        """What the manifest says."""
        from maxsearch.data.dataset import read_manifest

        return read_manifest(self._path)["products"]["count"]


def is_prepared(folder: Path) -> bool:
    """Whether a folder's manifest says that `maxsearch prepare` wrote it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    from maxsearch.data.dataset import KIND

    return isinstance(manifest, dict) and manifest.get("kind") == KIND

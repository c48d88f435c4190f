"""Rejected rows that wait until all of a file's are known, to be told in the order of the file."""

import pyarrow as pa

from maxsearch.data.tables.files import Table
from maxsearch.data.tables.formats import BadRecord
from maxsearch.prepare.embedded.tables import Tables
from maxsearch.prepare.rejections import Rejections


class Letters:
    """The dead letters of one file."""

    def __init__(self, tables: Tables, name: str) -> None:
        """Makes the table `name`."""
        self._tables, self._name = tables, name
        whole, text = pa.int64(), pa.string()
        self._append = tables.create(name, n=whole, place=whole, line=whole, code=text, reason=text, image=pa.bool_())

    def add(self, n: int, row: int, bad: BadRecord) -> None:
        """Takes a rejected row.

        Args:
          n: how many rows of the file came before it.
          row: its number, which rows may share.
          bad: what is wrong.
        """
        self._append.add(n, 0, row, bad.code, _utf8(bad.reason), False)

    def add_images(self, n: int, row: int, lost: tuple[BadRecord, ...]) -> None:
        """Takes the pictures that were left out of a row which is kept."""
        for place, bad in enumerate(lost):
            self._append.add(n, place, row, bad.code, _utf8(bad.reason), True)

    def deliver(self, rejections: Rejections, what: str, path: Table) -> None:
        """Hands all of them on; pictures of rows that are rejected after all are not told."""
        self._append.flush()
        found = self._tables.rows(
            f"SELECT line, code, reason, image FROM {self._name} "
            f"WHERE NOT image OR n NOT IN (SELECT n FROM {self._name} WHERE NOT image) ORDER BY n, place"
        )
        for row, code, reason, image in found:
            bad = BadRecord(code, reason)
            if image:
                rejections.add_image(path, row, bad)
            else:
                rejections.add(what, path, row, bad)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

"""Rows of a WebDataset shard: a tar whose neighbouring members with one key make a sample.

A member's key is its path up to the first dot of its name; what follows is its extension, as in
https://github.com/webdataset/webdataset. A sample becomes one row with the columns

- `__key__`, and `product_id`, which is the key unless a JSON member brings another;
- `image`, the list of its .jpg, .jpeg, .png and .webp members in their order;
- `txt` for 0001.txt, `title` for 0001.title.txt, and so on;
- every entry of a .json member. Other members are not read.
"""

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maxsearch.data.tables.formats import BadRecord, Rows, first_line
from maxsearch.data.tables.remote import RemoteFile
from maxsearch.errors import MaxsearchError

PICTURES = ("jpg", "jpeg", "png", "webp")
Member = tuple[str, bytes]  # extension and content


def tar_rows(path: Path | RemoteFile, what: str) -> Rows:
    """Streams the samples of a tar, gzipped or not, one at a time.

    Args:
      path: the tar.
      what: its role in words, for the messages.

    Raises:
      MaxsearchError: it is no tar, or is damaged.
    """
    row = 0
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            for key, members in _samples(tar):
                row += 1
                yield row, _cells(key, members)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise MaxsearchError(
            f"cannot read the {what} {path} past row {row} as tar ({first_line(error)}): check that it is whole"
        ) from None


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, list[Member]]]:
    current = ""
    members: list[Member] = []
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if not (member.isfile() and stem and extension):
            continue
        key = f"{folder}/{stem}" if folder else stem
        if key != current:
            if members:
                yield current, members
            current, members = key, []
        if extension.lower().endswith((*PICTURES, "txt", "json")):
            content = tar.extractfile(member)
            assert content is not None
            members.append((extension.lower(), content.read()))
        else:
            members.append((extension.lower(), b""))
    if members:
        yield current, members


def _cells(key: str, members: list[Member]) -> dict[str, Any] | BadRecord:
    cells: dict[str, Any] = {"__key__": key, "product_id": key}
    pictures: list[bytes] = []
    for extension, content in members:
        name, _, kind = extension.rpartition(".")
        if kind in PICTURES:
            pictures.append(content)
        elif kind == "txt":
            cells[name or kind] = content.decode(errors="surrogateescape").strip()
        elif kind == "json":
            try:
                entries = json.loads(content)
            except (ValueError, RecursionError) as error:
                return BadRecord("bad_row", f"({key}) has a .{extension} member that is not JSON ({error})")
            if not isinstance(entries, dict):
                return BadRecord("bad_row", f"({key}) has a .{extension} member that is not a JSON object")
            cells |= {entry.strip(): value for entry, value in entries.items()}
    if pictures:
        cells["image"] = pictures
    return cells

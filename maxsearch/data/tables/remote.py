"""Files behind fsspec URLs (s3://, gs://, https://, memory://), with the part of Path's interface that tables need."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from maxsearch.errors import MaxsearchError, UsageError

MARK = "://"


@dataclass(frozen=True)
class RemoteFile:
    """One file.

    Attributes:
      url: its whole URL.
      size: its bytes; None where the store does not say.
      found: whether it is there.
    """

    url: str
    size: int | None
    found: bool = True

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.url).name

    @property
    def suffix(self) -> str:
        """What the name ends in, with the dot."""
        return PurePosixPath(self.url).suffix

    def exists(self) -> bool:
        """Whether it was there when it was looked up."""
        return self.found

    def is_file(self) -> bool:
        """As `exists`: a folder is never made one of these."""
        return self.found

    def stat(self) -> os.stat_result:
        """The size, in `st_size`, or -1; all else is 0."""
        return os.stat_result((0, 0, 0, 0, 0, 0, -1 if self.size is None else self.size, 0, 0, 0))

    def open(self, mode: str = "rb") -> Any:
        """Opens it for reading bytes, with reads in between that go on where one left off.

        Raises:
          OSError: it cannot be read.
        """
        system, path = _system(self.url)
        try:
            return system.open(path, mode)
        except OSError:
            raise
        except Exception as error:  # each store has exceptions of its own
            raise OSError(str(error) or type(error).__name__) from None


def is_url(text: str) -> bool:
    """Whether it is an fsspec URL rather than a path."""
    scheme, mark, _ = text.partition(MARK)
    return bool(mark) and scheme.replace("+", "").replace(":", "").isalnum()


def remote_files(url: str, what: str) -> tuple[list[RemoteFile], str]:
    """The files that a URL stands for.

    Args:
      url: a file, a folder, or a pattern with * ? or [].
      what: their role in words, for the messages.

    Returns:
      the files in the order of their names, only the given one, perhaps absent, when it is no folder and no pattern;
      and the URL below which they lie.

    Raises:
      UsageError: the protocol is unknown, or its package is not installed.
      MaxsearchError: the store cannot be reached.
    """
    system, path = _system(url)
    try:
        found: Any
        if any(mark in path for mark in "*?["):
            found = system.glob(path, detail=True)
            base = path[: min(path.index(mark) for mark in "*?[" if mark in path)].rpartition("/")[0]
        # Files first: over HTTP anything that holds links would pass for a folder.
        elif not system.isfile(path) and system.isdir(path):
            found, base = system.find(path, detail=True), path
        else:
            found = system.exists(path)
            return [RemoteFile(url, system.info(path).get("size") if found else None, found)], url
    except Exception as error:  # each store has exceptions of its own
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MaxsearchError(f"cannot list the {what} {url} ({text}): check the URL and the credentials") from None
    files = [
        RemoteFile(system.unstrip_protocol(name), info.get("size"))
        for name, info in sorted(found.items())
        if info.get("type") == "file"
    ]
    return files, system.unstrip_protocol(base)


@contextmanager
def opened(url: str) -> Iterator[tuple[Any, str]]:
    """Yields the file system of a URL, and the path in it.

    Raises:
      UsageError: the protocol is unknown, or its package is not installed.
      MaxsearchError: what the block does with the store fails.
    """
    system, path = _system(url)
    try:
        yield system, path.rstrip("/")
    except MaxsearchError:
        raise
    except Exception as error:  # each store has exceptions of its own
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MaxsearchError(f"cannot use {url} ({text}): check the URL, the credentials and the room") from None


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"cannot open {url} ({text}): install the package for this protocol, or correct it") from None

"""Files that appear whole or not at all, with checksums."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maxsearch.errors import MaxsearchError, UsageError

LOCK = ".lock"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` beside `path`, flushes it to disk, and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes it private; a prepared folder is meant to be shared
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, so that equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, *, what: str, remedy: str) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      what: the file's role in words, for the message ("data manifest").
      remedy: what a user should do when it is absent or broken.

    Raises:
      MaxsearchError: the file is absent or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MaxsearchError(f"no {what} at {path}: {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MaxsearchError(f"the {what} {path} is not valid JSON ({error}): {remedy}") from None


@contextmanager
def locked(folder: Path, *, flag: str) -> Iterator[None]:
    """Keeps a second process of this machine out of a folder, which is made when absent.

    Args:
      folder: the folder.
      flag: the flag that named it, for the message.

    Raises:
      UsageError: one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{flag} {folder} is in use by another process: wait until it ends, or name a new folder"
            ) from None
        yield


@contextmanager
def directory_in_place(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path` that takes its place when the block ends without an error.

    An older folder at `path` is replaced; a block that fails leaves it as it was.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    draft.chmod(0o755)
    try:
        yield draft
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            path.replace(old / path.name)
            draft.replace(path)
            shutil.rmtree(old)
        else:
            draft.replace(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise

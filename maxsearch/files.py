"""Files that appear whole or not at all, with checksums."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from maxsearch.errors import MaxsearchError, UsageError

LOCK = ".lock"
DRAFT, OLD = ".draft-", ".old-"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def account_of(path: Path, folder: Path) -> dict[str, Any]:
    """What a manifest lists of a file: {"name", "bytes", "sha256"}; the name is its path in the folder."""
    return {"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


@contextmanager
def file_in_place(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its place, flushed to disk, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes it private; a prepared folder is meant to be shared
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` beside `path`, flushes it to disk, and renames it into place."""
    with file_in_place(path) as stream:
        stream.write(content)


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


def flush_folder(folder: Path) -> None:
    """Flushes a folder's own entries to disk, so that names that were made or moved there survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, *, flag: str, wait: bool = False) -> Iterator[None]:
    """Keeps a second process of this machine out of a folder, which is made when absent.

    Args:
      folder: the folder.
      flag: the flag that named it, for the message.
      wait: wait until no other process is at work there, in place of refusing.

    Raises:
      UsageError: one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UsageError(
                f"{flag} {folder} is in use by another process: wait until it ends, or name a new folder"
            ) from None
        yield


@contextmanager
def directory_in_place(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path` that takes its place when the block ends without an error.

    An older folder at `path` is replaced; a block that fails leaves it as it was. What a killed process left beside
    `path` is cleared away by the next one.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(path)
    draft, held = _locked_draft(path)
    try:
        yield draft
        if path.exists():
            old = _set_aside(path, draft)
            path.replace(old)
            draft.replace(path)
            shutil.rmtree(old)
        else:
            draft.replace(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    finally:
        os.close(held)


def clear_drafts(folder: Path) -> None:
    """Removes what killed processes left of the folders that `directory_in_place` was making in this one."""
    for draft in folder.glob(f".*{DRAFT}????????"):
        lock = _try_lock(draft)
        if lock is not None:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(lock)


def _locked_draft(path: Path) -> tuple[Path, int]:
    """A new folder beside `path`, and its lock, which ends with this process."""
    while True:
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{DRAFT}"))
        draft.chmod(0o755)
        held = os.open(draft, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if draft.exists():
            return draft, held
        os.close(held)  # another process took it for abandoned before it was locked


def _set_aside(path: Path, draft: Path) -> Path:
    """Where the older folder waits while a draft takes its place."""
    return draft.with_name(f".{path.name}{OLD}{draft.name.rpartition(DRAFT)[2]}")


def _clear_abandoned(path: Path) -> None:
    """Removes drafts of processes that are gone, and puts an older folder back that one had moved aside."""
    drafts = path.parent.glob(f".{glob.escape(path.name)}{DRAFT}????????")
    held = {draft: _try_lock(draft) for draft in drafts}
    busy = {_set_aside(path, draft) for draft, lock in held.items() if lock is None}
    for old in path.parent.glob(f".{glob.escape(path.name)}{OLD}????????"):
        if old in busy:
            continue
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.replace(path)
    for draft, lock in held.items():
        if lock is not None:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(lock)


def _try_lock(draft: Path) -> int | None:
    """Locks the draft of a process that is gone; None while it lives, or where that cannot be told."""
    try:
        held = os.open(draft, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held

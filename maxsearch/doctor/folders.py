"""The folders that are written to: room, permission, and the clock that stamps their files."""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from maxsearch.data.tables.remote import is_url
from maxsearch.doctor.finding import Finding, advice, ok, problem
from maxsearch.doctor.machine import GIB, size

FREE_NEEDED, FREE_WISHED = GIB, 10 * GIB
NAMES_NEEDED = 10_000
CLOCK_SECONDS = 60.0
BUILT = 1_760_000_000  # October 2025: a clock before that is wrong, since this code is younger


@dataclass(frozen=True)
class Folder:
    """What was found of a folder, or of the nearest one above it that exists.

    Attributes:
      role: what it is for ("run").
      path: as it was given.
      remote: it is a URL, of which nothing else is known here.
      free: bytes that may still be written.
      names: files that may still be made; None where the file system does not count them.
      writable: whether a file could be made there.
      clock: seconds by which its files' time is ahead of this machine's; None where no file could be made.
      is_folder: false where a file stands in its place.
    """

    role: str
    path: str
    remote: bool = False
    free: int = 0
    names: int | None = None
    writable: bool = False
    clock: float | None = None
    is_folder: bool = True


def look_at(role: str, path: str) -> Folder:
    """Measures a folder; makes nothing but a nameless file that is gone at once."""
    if is_url(path):
        return Folder(role, path, remote=True)
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return Folder(role, path, is_folder=False)
    counted = os.statvfs(place)
    writable, clock = True, None
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"x")
            stream.flush()
            clock = os.fstat(stream.fileno()).st_mtime - time.time()
    except OSError:
        writable = False
    free = shutil.disk_usage(place).free
    return Folder(role, path, False, free, counted.f_favail if counted.f_files else None, writable, clock)


def check_folder(folder: Folder) -> Finding:
    """What was found of a folder, in one line: the worst of it."""
    check = f"{folder.role} folder"
    if folder.remote:
        return ok(check, f"{folder.path}: an object store, which is not looked into")
    if not folder.is_folder:
        return problem(check, f"{folder.path}: a file stands in its place", "name another folder")
    if not folder.writable:
        return problem(check, f"{folder.path}: cannot be written to", "change its permissions, or name another folder")
    room = f"{folder.path}: {size(folder.free)} free"
    if folder.free < FREE_NEEDED:
        return problem(check, room, f"at least {size(FREE_NEEDED)} is needed: free some, or name another folder")
    if folder.names is not None and folder.names < NAMES_NEEDED:
        return problem(check, f"{room}, and {folder.names:,} files can be made", "remove small files: inodes run out")
    if folder.clock is not None and abs(folder.clock) > CLOCK_SECONDS:
        return advice(
            check,
            f"{room}, and its files are stamped {folder.clock:+.0f} s off this machine's clock",
            "synchronise the clocks of this machine and of the file server",
        )
    if folder.free < FREE_WISHED:
        return advice(check, room, "checkpoints and indexes of a large catalogue need more")
    return ok(check, room)


def check_clock(now: float) -> Finding:
    """Whether the clock can be right, in seconds since 1970."""
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < BUILT:
        return problem("clock", f"{told} is in the past", "set it: certificates and signed requests fail by it")
    return ok("clock", told)

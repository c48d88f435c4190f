"""A file of records that are on disk before they are acknowledged (write-ahead log).

A record is a header of three little-endian uint32 (the payload's length, its CRC-32, and the CRC-32 of those eight
bytes) and the payload. A write that was cut short leaves a torn end, which the next writer cuts off; damage anywhere
else is told and never passed over, because acknowledged records may follow it.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from maxsearch.errors import MaxsearchError
from maxsearch.files import flush_folder, write_bytes

MAGIC = b"maxsearch writes 1\n"
HEADER = struct.Struct("<III")


class WriteLog:
    """The records of a log, read as they come; one process at a time appends.

    Readers need no lock. A log that is replaced as a whole is noticed by its inode, which is not given to another file
    while this one holds it open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = -1
        self._end = 0

    def close(self) -> None:
        """Closes the file."""
        if self._stream >= 0:
            os.close(self._stream)
            self._stream = -1

    def read(self) -> tuple[bool, list[bytes]]:
        """Reads the whole records that have come since the last call.

        Returns:
          Whether the log was opened anew, so that its records are given from the first one on; and the records.

        Raises:
          MaxsearchError: no log, or one that is damaged before its end.
        """
        anew = self._follow()
        size = os.fstat(self._stream).st_size
        if size < self._end:  # a record that could not be flushed was taken back
            self.close()
            return self.read()
        content = os.pread(self._stream, size - self._end, self._end) if size > self._end else b""
        records, used = self._parse(content)
        self._end += used
        return anew, records

    def append(self, payload: bytes) -> None:
        """Adds a record and returns when it is on disk; nobody else may append, and `read` was called just before.

        Raises:
          OSError: it could not be written; the log is then as it was.
        """
        record = pack(payload)
        stream = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)  # apart, so that readers need no permission to write
        try:
            os.ftruncate(stream, self._end)  # a torn end
            written = 0
            while written < len(record):
                written += os.pwrite(stream, record[written:], self._end + written)
            os.fsync(stream)
        except OSError:
            os.ftruncate(stream, self._end)
            raise
        finally:
            os.close(stream)
        self._end += len(record)

    def _follow(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            raise MaxsearchError(
                f"the store has lost its log of writes {self._path}: put it back from a copy, or build the store again"
            ) from None
        if self._stream >= 0 and os.path.samestat(found, os.fstat(self._stream)):
            return False
        self.close()
        self._stream = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._end = len(MAGIC)
        if os.pread(self._stream, len(MAGIC), 0) != MAGIC:
            raise self._damaged(0)
        return True

    def _parse(self, content: bytes) -> tuple[list[bytes], int]:
        records, start = [], 0
        while len(content) - start >= HEADER.size:
            length, checksum, own = HEADER.unpack_from(content, start)
            end = start + HEADER.size + length
            if zlib.crc32(content[start : start + 8]) != own:
                if any(content[start + HEADER.size :]):
                    raise self._damaged(self._end + start)
                break  # the file had grown before a power cut, and its bytes did not come
            payload = content[start + HEADER.size : end]
            if len(payload) < length:
                break
            if zlib.crc32(payload) != checksum:
                if end < len(content) and any(content[end:]):
                    raise self._damaged(self._end + start)
                break
            records.append(payload)
            start = end
        return records, start

    def _damaged(self, place: int) -> MaxsearchError:
        return MaxsearchError(
            f"the log of writes {self._path} is damaged at byte {place:,}, so writes after it cannot be read: put it "
            "back from a copy, or build the store again"
        )


def pack(payload: bytes) -> bytes:
    """A record: header and payload."""
    described = struct.pack("<II", len(payload), zlib.crc32(payload))
    return described + struct.pack("<I", zlib.crc32(described)) + payload


def replace_log(path: Path, payloads: Iterable[bytes]) -> None:
    """Puts a log of these records in the place of the one that stands there."""
    write_bytes(path, MAGIC + b"".join(map(pack, payloads)))
    flush_folder(path.parent)

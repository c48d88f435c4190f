"""Memory that a worker process fills and the training process reads in place, and that is used again and again.

Fresh shared memory for every batch costs as much as a third of the work on its pictures: the kernel clears each page
and maps it twice. So a worker has a few places of its own, and a place is free again once the reader has let go of the
batch that lay there. The memory has no name: whatever ends the processes, nothing is left behind.
"""

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE

# int64 [4] in place of an array: the writer's process, its file descriptor, the place, and how many there are.
Ticket = np.ndarray


class Places:
    """The writer's side: places for arrays of one shape; not to be shared by threads."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        """Makes `count` places for uint8 arrays of this shape.

        Raises:
          OSError: the system has no such memory.
        """
        self._shape, self._count = shape, count
        self._file = os.memfd_create("maxsearch")
        os.ftruncate(self._file, PAGE + count * stride(shape))
        self._memory = mmap.mmap(self._file, 0)
        self._taken = np.frombuffer(self._memory, np.uint8, count)

    def take(self) -> tuple[np.ndarray, Ticket] | None:
        """A free place as an array, and the ticket that the reader opens it with; None when all are taken."""
        free = np.flatnonzero(self._taken == 0)
        if not len(free):
            return None
        place = int(free[0])
        self._taken[place] = 1
        array = np.frombuffer(
            self._memory, np.uint8, int(np.prod(self._shape)), PAGE + place * stride(self._shape)
        ).reshape(self._shape)
        return array, np.array([os.getpid(), self._file, place, self._count], np.int64)


class Reader:
    """The reader's side: opens what any number of writers send."""

    def __init__(self) -> None:
        self._memories: dict[tuple[int, int], mmap.mmap] = {}

    def open(self, ticket: Ticket, shape: tuple[int, ...]) -> np.ndarray:
        """The array of a ticket; its place is free again when nothing refers to the array or a part of it any more.

        Raises:
          OSError: the writer is gone.
        """
        pid, file, place, _ = ticket.tolist()
        memory = self._memories.get((pid, file))
        if memory is None:
            with open(f"/proc/{pid}/fd/{file}", "r+b") as stream:  # noqa: PTH123
                memory = self._memories[pid, file] = mmap.mmap(stream.fileno(), 0)
        size = int(np.prod(shape))
        # NumPy lets views hold the memory's owner alone: so the owner is an object of this batch.
        owner = (ctypes.c_uint8 * size).from_buffer(memory, PAGE + place * stride(shape))
        weakref.finalize(owner, release, memory, place)
        return np.frombuffer(memoryview(owner), np.uint8).reshape(shape)


def stride(shape: tuple[int, ...]) -> int:
    """Bytes from one place to the next."""
    return -(-int(np.prod(shape)) // PAGE) * PAGE


def release(memory: Any, place: int) -> None:
    """Marks a place as free."""
    memory[place] = 0

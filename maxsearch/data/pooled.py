"""Work that a pool of threads or processes does ahead, given out in the order of its input."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: Executor, action: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Applies an action to items, at most `ahead` + 1 of which are under way at a time.

    Raises:
      Exception: whatever the action raises, in its turn.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(action, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()

"""Requests that arrive together are encoded together.

One thread runs the encoder: its programs use all cores by themselves. While it works, what arrives waits and forms the
next batch, so that batches grow with the load and a lone request waits for nobody longer than `max_wait`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float32

from maxsearch.serving.http.refusal import Refusal

T = TypeVar("T")


class MicroBatcher(Generic[T]):
    """Collects items and encodes them in batches; belongs to one event loop.

    Args:
      encode: turns items into one vector each, in a thread of its own.
      max_batch: items that are encoded together.
      max_wait: seconds that the first of a batch waits for others.
      max_queue: items that may wait; more are refused with 503.
      observe: is told the size of each batch and how many seconds it took.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[T]], Float32[np.ndarray, "n D"]],
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._encode, self._observe = encode, observe
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._waiting: deque[tuple[T, asyncio.Future[np.ndarray]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Begins to encode; call it from the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends; whoever still waits is refused."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Refusal(503, "the service is stopping: ask again elsewhere", retry_after=1))
        self._thread.shutdown(wait=True)

    async def encode(self, item: T) -> Float32[np.ndarray, " D"]:
        """The item's vector.

        Raises:
          Refusal: too many items wait, or the service stops.
        """
        if len(self._waiting) >= self._max_queue:
            raise Refusal(503, "too many searches wait for the encoder: ask again in a second", retry_after=1)
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._max_batch and self._max_wait:
                await asyncio.sleep(self._max_wait)
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            # Whoever has hung up needs no vector.
            batch = [(item, future) for item, future in batch if not future.done()]
            if not batch:
                continue
            started = time.perf_counter()
            try:
                vectors = await loop.run_in_executor(self._thread, self._encode, [item for item, _ in batch])
            except asyncio.CancelledError:
                self._waiting.extendleft(reversed(batch))
                raise
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._observe(len(batch), time.perf_counter() - started)
            for (_, future), vector in zip(batch, vectors, strict=True):
                if not future.done():
                    future.set_result(vector)

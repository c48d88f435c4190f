"""Batches on their way to the devices."""

from typing import Any

import jax
from jax.sharding import Mesh

from maxsearch.data.stream import Stream
from maxsearch.mesh import put_batch


class Feed:
    """Hands out a stream's batches as global arrays, of which one may be under way while a step runs.

    Attributes:
      faults: bad records by reason in the batches that were handed out.
    """

    def __init__(self, stream: Stream, mesh: Mesh) -> None:
        self._stream, self._mesh = stream, mesh
        self._ahead: tuple[dict[str, jax.Array], dict[str, int], dict[str, Any]] | None = None
        self.faults = dict(stream.faults.counts)

    def fetch(self) -> None:
        """Sends the next batch on its way, unless it is already."""
        if self._ahead is None:
            state = self._stream.state()
            batch = put_batch(next(self._stream), self._mesh)
            self._ahead = batch, dict(self._stream.faults.counts), state

    def take(self) -> dict[str, jax.Array]:
        """The next batch."""
        self.fetch()
        assert self._ahead is not None
        (batch, self.faults, _), self._ahead = self._ahead, None
        return batch

    def state(self) -> dict[str, Any]:
        """The stream's position behind the batches that were handed out; one that is under way will come again."""
        return self._stream.state() if self._ahead is None else self._ahead[2]

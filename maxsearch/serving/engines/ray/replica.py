"""What runs in a replica's process: a shard, whose answers do not wait for one another."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maxsearch.serving.shards.folder import ShardedFolder
from maxsearch.serving.shards.messages import State
from maxsearch.serving.shards.shard import Shard

METHODS = ("status", "find", "items", "products", "product", "kept", "write")


class Replica:
    """A shard as Ray Serve runs it: ready, and asked, once it is open and has tested itself.

    Args:
      folder: the sharded store, on a path that all machines of the cluster see.
      number: which shard.
    """

    def __init__(self, folder: str, number: int) -> None:
        self._folder = ShardedFolder(Path(folder))
        self._shard = Shard(self._folder.folder, number)

    async def ask(self, method: str, arguments: Sequence[Any]) -> Any:
        """Calls a method of the shard."""
        if method not in METHODS:
            raise ValueError(f"a shard has no method {method!r}")
        return await asyncio.to_thread(getattr(self._shard, method), *arguments)

    async def ready(self, generation: str = "") -> int:
        """The number of this process, once a generation is open here."""
        if generation:
            await asyncio.to_thread(self._shard.status, State(generation, 0))
        return os.getpid()

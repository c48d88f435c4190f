"""Shards in this process: what a cluster does, without one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maxsearch.serving.shards.folder import ShardedFolder
from maxsearch.serving.shards.shard import Shard


class LocalShards:
    """Replicas that take turns, so that one which lags behind is asked as well."""

    def __init__(self, folder: Path, replicas: int = 2) -> None:
        count = ShardedFolder(folder).read(ShardedFolder(folder).current()).shards
        self.replicas = [[Shard(folder, number) for number in range(count)] for _ in range(replicas)]
        self.turn = 0
        self.asked: list[str] = []

    def ask(self, method: str, arguments: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        self.turn += 1
        self.asked.append(method)
        shards = self.replicas[self.turn % len(self.replicas)]
        return {number: getattr(shards[number], method)(*given) for number, given in arguments.items()}

    def prepare(self, generation: str, shards: int) -> None:
        pass

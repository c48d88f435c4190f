"""The way to shards on Ray: asks them at the same time, and once more where a replica died."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maxsearch.errors import MaxsearchError
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.engines.ray.cluster import deploy, join
from maxsearch.serving.engines.ray.options import RayOptions
from maxsearch.serving.shards.engine import ShardedEngine
from maxsearch.serving.shards.folder import ShardedFolder
from maxsearch.serving.shards.state import MovedError
from maxsearch.serving.shop.answer import UnavailableError

WRITING = 60.0
"""Seconds that a write may take: it waits for the others, and for the disk."""
PROBE = 1.0
TRIES = 8
"""Questions per replica until each is believed to have been asked; one is chosen at random every time."""


class RayShards:
    """See `messages.Shards`.

    A shard that does not answer counts as down: what is asked of it is refused at once, until a question in the
    background is answered again.

    Args:
      handles: of each shard's deployment.
      options: how they are deployed.
    """

    def __init__(self, handles: Sequence[Any], options: RayOptions) -> None:
        self._handles, self._options = [handle.ask for handle in handles], options
        self._ready = [handle.ready for handle in handles]
        self._down: set[int] = set()
        self._lock = threading.Lock()

    def ask(self, method: str, arguments: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """See `Shards`."""
        for shard in arguments:
            if shard in self._down:
                raise self._unavailable(shard)
        until = time.monotonic() + (WRITING if method == "write" else self._options.timeout)
        asked = {shard: self._handles[shard].remote(method, given) for shard, given in arguments.items()}
        said, failed = {}, []
        for shard, response in asked.items():
            try:
                said[shard] = self._said(shard, response, until, (method, arguments[shard]))
            except (UnavailableError, MovedError, MaxsearchError) as error:
                failed.append(error)
        if failed:
            # Whether all shards answer matters more than what is wrong with the question.
            raise next((error for error in failed if isinstance(error, UnavailableError)), failed[0])
        return said

    def prepare(self, generation: str, shards: int) -> None:
        """See `Shards`: asks at random until as many processes as there are replicas have opened it."""
        until = time.monotonic() + self._options.start_timeout
        for shard in range(shards):
            seen: set[int] = set()
            for _ in range(TRIES * self._options.replicas):
                seen.add(self._said(shard, self._ready[shard].remote(generation), until, None))
                if len(seen) == self._options.replicas:
                    break

    def processes(self, shard: int) -> set[int]:
        """The processes that answer for a shard, as far as some questions tell."""
        asked = [self._ready[shard].remote() for _ in range(TRIES * self._options.replicas)]
        return {response.result(timeout_s=self._options.timeout) for response in asked}

    def _said(self, shard: int, response: Any, until: float, again: tuple[Any, ...] | None) -> Any:
        """What a shard says; asked once more where there is another replica than the one that died."""
        from ray.exceptions import RayActorError, RayTaskError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        try:
            return response.result(timeout_s=max(until - time.monotonic(), 0.001))
        except RayActorError:
            if again is not None and self._options.replicas > 1:
                return self._said(shard, self._handles[shard].remote(*again), until, None)
            self._lost(shard)
        except (TimeoutError, DeploymentUnavailableError):
            response.cancel()
            self._lost(shard)
        except BackPressureError:
            pass
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MaxsearchError | MovedError):
                raise cause from None
            raise
        raise self._unavailable(shard)

    def _unavailable(self, shard: int) -> UnavailableError:
        return UnavailableError(f"shard {shard} of {len(self._handles)} does not answer: ask again in a second")

    def _lost(self, shard: int) -> None:
        """Refuses what is asked of a shard until it answers again."""
        with self._lock:
            if shard in self._down:
                return
            self._down.add(shard)
        threading.Thread(target=self._probe, args=(shard,), name=f"maxsearch-shard-{shard}", daemon=True).start()

    def _probe(self, shard: int) -> None:
        while True:
            try:
                self._ready[shard].remote().result(timeout_s=self._options.timeout)
                break
            except Exception:  # whatever it is, the shard does not answer yet
                time.sleep(PROBE)
        with self._lock:
            self._down.discard(shard)


def open_engine(folder: Path, model: EmbeddingModel, options: RayOptions, *, max_batch: int = 32) -> ShardedEngine:
    """Deploys the shards of a folder on Ray and opens the engine over them.

    Args:
      folder: what `maxsearch index shard` wrote.
      model: the model that it was built with.
      options: where and how to deploy.
      max_batch: the largest batch of queries that `warm_up` compiles.

    Raises:
      UsageError: Ray is not installed.
      MaxsearchError: no shards, some of another model or damaged, or no cluster.
    """
    folder = folder.resolve()
    sharded = ShardedFolder(folder)
    common = sharded.read(sharded.current())
    common.require_model(model.fingerprint, folder)
    join(options, common.shards)
    shards = RayShards(deploy(folder, common.shards, options), options)
    return ShardedEngine(folder, shards, model, max_batch=max_batch)

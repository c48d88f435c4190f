"""The sub-command `serve`: its flags, and the call that it is. The doc strings are the help texts."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from maxsearch.commands.flags import OptionalPath
from maxsearch.errors import UsageError
from maxsearch.serving.engines.choose import EngineName, EngineOptions, open_engine
from maxsearch.serving.engines.milvus.options import MilvusOptions
from maxsearch.serving.engines.ray.options import RayOptions
from maxsearch.serving.http.options import Limits, ServeOptions


@dataclass(frozen=True)
class Serve:
    """Answer searches over HTTP, with a search page, from an index store or another engine."""

    engine: EngineName = "store"
    """What searches: a store in this process, shards in processes of a Ray cluster, or Milvus."""
    store: Path = Path("store")
    """The store that `index build --store` wrote; with --engine ray, the shards that `index shard` wrote."""
    milvus: MilvusOptions = field(default_factory=MilvusOptions)
    """Where Milvus is, and what `index push` put there."""
    ray: RayOptions = field(default_factory=RayOptions)
    """How shards are deployed, with --engine ray."""
    model: Path = Path("model")
    """The exported model that built what is searched."""
    host: str = "127.0.0.1"
    """Address to bind; any but loopback needs keys."""
    port: int = 8080
    """Port; 0 lets the system choose."""
    keys: OptionalPath = None
    """File of lines `read KEY` and `admin KEY`, readable by its owner only; also MAXSEARCH_READ_KEY and
    MAXSEARCH_ADMIN_KEY."""
    allowed_hosts: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Names by which the service may be called; on loopback without keys only loopback's own unless given."""
    limits: Limits = field(default_factory=Limits)
    """What one request may take."""
    max_batch: int = 32
    """Queries that the encoder takes at once."""
    max_wait_ms: float = 0.0
    """How long a query waits for others; while the encoder works they wait anyway."""
    cache: int = 10_000
    """Query vectors that are kept."""
    refresh_seconds: float = 1.0
    """How often a new generation is looked for."""
    drain_seconds: float = 20.0
    """How long answers that have begun may take after SIGTERM."""

    def run(self) -> None:
        from maxsearch.encode import Encoder

        try:
            import fastapi  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError:
            raise UsageError("serve needs the extra of the same name: pip install 'maxsearch[serve]'") from None
        from maxsearch.serving.http.keys import Keys
        from maxsearch.serving.http.server import require_keys, serve

        options = ServeOptions(
            self.host,
            self.port,
            self.limits,
            self.max_batch,
            self.max_wait_ms,
            self.cache,
            self.refresh_seconds,
            self.drain_seconds,
            self.allowed_hosts,
        )
        keys = Keys.read(self.keys, dict(os.environ))
        require_keys(options, keys)
        chosen = EngineOptions(self.engine, self.store, self.milvus, self.ray, self.max_batch)
        engine = open_engine(chosen, Encoder.from_model(self.model))
        what = chosen.described
        serve(engine, options, keys, announce=lambda address: print(f"serving {what} on {address}", flush=True))

"""The engine that a service answers from, chosen by name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from maxsearch.serving.engines.milvus.options import MilvusOptions
from maxsearch.serving.engines.ray.options import RayOptions

if TYPE_CHECKING:  # `serve --help` shall not wait for what searches
    from maxsearch.serving.encoder import EmbeddingModel
    from maxsearch.serving.shop.answer import Engine

EngineName: TypeAlias = Literal["store", "ray", "milvus"]


@dataclass(frozen=True)
class EngineOptions:
    """Which engine, and what it opens.

    Attributes:
      name: `store`, `ray` or `milvus`.
      store: the folder of a store, or of shards for `ray`.
      milvus: which Milvus.
      ray: how shards are deployed.
      max_batch: the largest batch of queries that the encoder is made ready for.
    """

    name: EngineName = "store"
    store: Path = Path("store")
    milvus: MilvusOptions = field(default_factory=MilvusOptions)
    ray: RayOptions = field(default_factory=RayOptions)
    max_batch: int = 32

    @property
    def described(self) -> str:
        """What is served, in a few words."""
        return f"{self.milvus.alias} of {self.milvus.uri}" if self.name == "milvus" else str(self.store)


def open_engine(options: EngineOptions, model: "EmbeddingModel") -> "Engine":
    """Opens an engine.

    Raises:
      UsageError: an option that the engine needs is missing, or an optional package.
      MaxsearchError: what it opens is absent, damaged, out of reach or of another model.
    """
    if options.name == "milvus":
        from maxsearch.serving.engines.milvus.engine import MilvusEngine

        return MilvusEngine.open(options.milvus, model, max_batch=options.max_batch)
    if options.name == "ray":
        from maxsearch.serving.engines.ray.shards import open_engine as open_shards

        return open_shards(options.store, model, options.ray, max_batch=options.max_batch)
    from maxsearch.serving.shop.engine import StoreEngine

    return StoreEngine.open(options.store, model, max_batch=options.max_batch)

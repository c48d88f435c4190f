"""The engine over shards: encodes a query once, asks all shards, and answers as one index would; or not at all."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.filters.boosts import parse_boosts
from maxsearch.serving.filters.cursors import decode_cursor
from maxsearch.serving.filters.facets import counts_of, parse_facets
from maxsearch.serving.filters.pages import Paging, first_page, page
from maxsearch.serving.filters.parse import parse_filter
from maxsearch.serving.filters.planner import Ranking
from maxsearch.serving.hybrid.ranking import HybridRanking
from maxsearch.serving.shards.folder import Sharded, ShardedFolder, shard_of
from maxsearch.serving.shards.gather import Search
from maxsearch.serving.shards.messages import Keep, Query, Shards, State, Status, Told
from maxsearch.serving.shards.state import MovedError
from maxsearch.serving.shop.answer import Answer, Field, NotFoundError, QueryInput, UnavailableError, Wanted
from maxsearch.serving.shop.engine import explained
from maxsearch.serving.shop.model_engine import ModelEngine
from maxsearch.serving.shop.queries import WARM_QUERIES
from maxsearch.serving.shop.searching import counted, digest, found, hybrid_settings, matcher, pins_of
from maxsearch.serving.store.writes import Upsert

T = TypeVar("T")
MOVES = 3
"""How often a request begins anew because another generation came to be served."""


class Served:
    """A generation, and how far its shards are known to be; every question asks for a state no older than that.

    Attributes:
      common: the generation.
    """

    def __init__(self, common: Sharded) -> None:
        self.common = common
        self._sequences = dict.fromkeys(range(common.shards), 0)
        self._products = dict.fromkeys(range(common.shards), 0)
        self._lock = threading.Lock()

    def note(self, shard: int, said: Told | Status) -> None:
        """Remembers what a shard said of itself."""
        with self._lock:
            if said.sequence >= self._sequences[shard]:
                self._sequences[shard], self._products[shard] = said.sequence, said.products

    def state(self, shard: int) -> State:
        """What the shard must have seen to answer."""
        return State(self.common.generation, self._sequences[shard])

    @property
    def products(self) -> int:
        """Of all shards."""
        return sum(self._products.values())


class ShardedEngine(ModelEngine):
    """See `shop.answer.Engine`.

    Whatever a search sees of a shard is one state of it, and all shards are of one generation. A write is on disk when
    its call returns, and every later search through this engine sees it, whichever replica answers. A call that writes
    to several shards is whole in each of them, not over all.

    Args:
      folder: the sharded store.
      shards: the way to its shards.
      model: the model that its generation was built with.
      max_batch: the largest batch of queries that `warm_up` compiles.

    Raises:
      MaxsearchError: no shards, or of another model.
    """

    def __init__(self, folder: Path, shards: Shards, model: EmbeddingModel, *, max_batch: int = 32) -> None:
        super().__init__(model, max_batch)
        self._folder, self._shards = ShardedFolder(folder), shards
        self._turning = threading.Lock()
        self._served = self._prepared(self._folder.current())

    @property
    def generation(self) -> str:
        """See `Engine`."""
        return self._served.common.generation

    @property
    def products(self) -> int:
        """See `Engine`."""
        return self._served.products

    @property
    def fields(self) -> Sequence[Field]:
        """See `Engine`."""
        return self._served.common.fields

    def vector_of(self, product_id: str) -> Float32[np.ndarray, " D"]:
        """See `Engine`."""
        return self._product(product_id)[1]

    def search(self, vector: Float32[np.ndarray, " D"], wanted: Wanted) -> Answer:
        """See `Engine`."""
        return self._following(lambda served: self._answer(served, vector, wanted))

    def upsert(self, products: Sequence[Product]) -> int:
        """See `Engine`; all or none of the products of each shard."""
        upserts = self._embedded(products)
        try:
            self._following(lambda served: self._write(served, upserts, ()))
        except UnavailableError:
            raise
        except MaxsearchError as error:
            raise UsageError(str(error)) from None
        return len(upserts)

    def delete(self, product_ids: Sequence[str]) -> int:
        """See `Engine`; all or none of the products of each shard."""
        return self._following(lambda served: self._write(served, (), list(dict.fromkeys(product_ids))))

    def explain(self, text: str, product_id: str) -> dict[str, Any]:
        """See `Engine`."""
        return explained(self._model, text, self._product(product_id)[0])

    def picture(self, product_id: str) -> bytes | None:
        """See `Engine`."""
        return next(iter(self._product(product_id)[0].images), None)

    def refresh(self) -> bool:
        """See `Engine`; also learns what others wrote. All shards have opened a generation before any is asked."""
        try:
            with self._turning:
                name = self._folder.current()
                if name != self.generation:
                    self._served = self._prepared(name)
                    return True
            self._learn(self._served)
        except (UnavailableError, MovedError):
            pass  # told to whoever asks meanwhile; the next call tries again
        return False

    def warm_up(self) -> None:
        """See `Engine`; each replica has tested itself before it answers."""
        self._warm_model()
        try:
            answer = self.search(self.encode([QueryInput(WARM_QUERIES[0])])[0], Wanted(k=10, text=WARM_QUERIES[0]))
        except UnavailableError as error:
            raise MaxsearchError(str(error)) from None
        if not answer.hits and self.products:
            raise MaxsearchError(f"the shards of generation {answer.generation} find nothing: split the index again")

    def _prepared(self, name: str) -> Served:
        """A generation that all shards have opened.

        Raises:
          MaxsearchError: it is of another model.
        """
        common = self._folder.read(name)
        common.require_model(self._model.fingerprint, self._folder.folder)
        served = Served(common)
        self._shards.prepare(name, common.shards)
        self._learn(served)
        return served

    def _learn(self, served: Served) -> None:
        """Asks every shard how far it is."""
        self._ask(served, "status", dict.fromkeys(range(served.common.shards), ()))

    def _following(self, act: Callable[[Served], T]) -> T:
        """Does something with the generation that is served; anew when another one came to be."""
        for _ in range(MOVES):
            served = self._served
            try:
                return act(served)
            except MovedError:
                self.refresh()
        raise UnavailableError("the generation is being replaced: ask again in a second")

    def _ask(self, served: Served, method: str, arguments: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        said = self._shards.ask(method, {shard: (served.state(shard), *more) for shard, more in arguments.items()})
        for shard, one in said.items():
            if isinstance(one, Told | Status):
                served.note(shard, one)
        return said

    def _product(self, product_id: str) -> tuple[Product, Float32[np.ndarray, " D"]]:
        def ask(served: Served) -> tuple[Product, Float32[np.ndarray, " D"]] | None:
            shard = shard_of(product_id, served.common.shards)
            return self._ask(served, "product", {shard: (product_id,)})[shard]

        said = self._following(ask)
        if said is None:
            raise NotFoundError
        return said

    def _write(self, served: Served, upserts: Sequence[Upsert], deletes: Sequence[str]) -> int:
        parts: dict[int, tuple[list[Upsert], list[str]]] = defaultdict(lambda: ([], []))
        for one in upserts:
            parts[shard_of(one.item.product_id, served.common.shards)][0].append(one)
        for product_id in deletes:
            parts[shard_of(product_id, served.common.shards)][1].append(product_id)
        try:
            said = self._ask(served, "write", dict(parts))
        except UnavailableError as error:
            raise UnavailableError(f"{error}; some of the products may be written: send them all again") from None
        return sum(one.count for one in said.values())

    def _answer(self, served: Served, vector: Float32[np.ndarray, " D"], wanted: Wanted) -> Answer:
        common = served.common
        keep = Keep(parse_filter(wanted.filter, common.kinds), wanted.without)
        boosts = parse_boosts(list(wanted.boosts) or None, common.kinds)
        facets = parse_facets(list(wanted.facets) or None, common.kinds)
        name, request = common.generation, digest(vector, wanted)
        start = first_page(name, request)
        if wanted.cursor is not None:
            start = decode_cursor(wanted.cursor, generation=name, request=request)
        asks_words = wanted.hybrid is not None or wanted.refine or wanted.rerank > 0
        search = Search(
            partial(self._ask, served),
            common.shards,
            Query(
                vector,
                0,
                keep,
                boosts,
                facets,
                pins=tuple(wanted.pins),
                groups=wanted.collapse,
                after=None if start.score is None or start.row is None else (start.score, start.row),
                shown=0 if wanted.collapse else wanted.k,
                hybrid=hybrid_settings(wanted, lexical=common.lexical) if asks_words else None,
                text=wanted.text,
            ),
            partial(matcher, wanted, self._model) if wanted.rerank else None,
        )
        search.rank(Paging(wanted.k).first_depth(start))
        pins = search.pins
        paging = Paging(wanted.k, collapse=wanted.collapse, pins=pins_of(wanted, pins.get, lambda row: True))
        shown, ranking = page(search.rank, search, paging, start)
        assert isinstance(ranking, Ranking | HybridRanking)
        items = search.items([entry.row for entry in shown.entries])
        pictured = {entry.row: item.pictured for entry, item in zip(shown.entries, items, strict=True)}
        told = search.told.values()
        return Answer(
            hits=found(shown, ranking, [one.item for one in items], pictured.__getitem__),
            generation=name,
            exact=shown.exact,
            scanned=ranking.scanned if isinstance(ranking, Ranking) else len(ranking.rows),
            total=search.count,
            facets={
                facet.field: counted(counts_of(facet, common.kinds[facet.field], [one.tallies[place] for one in told]))
                for place, facet in enumerate(facets)
            },
            cursor=None if shown.following is None else shown.following.encode(),
        )

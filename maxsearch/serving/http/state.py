"""What the routes share: the engine, and everything between a request and its vector."""

import time
from collections.abc import Sequence

import anyio
import numpy as np
from jaxtyping import Float32

from maxsearch.data.images import fit_image
from maxsearch.data.tables.formats import BadRecord
from maxsearch.errors import UsageError
from maxsearch.serving.filters.cursors import GoneCursorError
from maxsearch.serving.http.batching import MicroBatcher
from maxsearch.serving.http.metrics import Metrics
from maxsearch.serving.http.options import ServeOptions
from maxsearch.serving.http.query_cache import QueryCache
from maxsearch.serving.http.refusal import Refusal
from maxsearch.serving.http.schema import SearchRequest, decoded
from maxsearch.serving.shop.answer import Answer, Engine, Hybrid, NotFoundError, QueryInput, Wanted

QUERY_IMAGE_EDGE = 1024


class State:
    """One service's engine with its batcher, cache and counters.

    Attributes:
      engine: what answers.
      ready: whether requests are answered; false while starting and after SIGTERM.
    """

    def __init__(self, engine: Engine, options: ServeOptions, metrics: Metrics) -> None:
        self.engine, self.options, self.metrics = engine, options, metrics
        self.ready = False
        self.stopping = False
        self.cache = QueryCache(options.cache)
        self.batcher: MicroBatcher[QueryInput] = MicroBatcher(
            engine.encode,
            max_batch=options.max_batch,
            max_wait=options.max_wait_ms / 1000,
            max_queue=options.limits.queue,
            observe=lambda size, seconds: metrics.batches.observe(size),
        )

    async def require_ready(self) -> None:
        """A FastAPI dependency; raises Refusal while the service starts or stops."""
        if not self.ready:
            what = "stopping" if self.stopping else "starting"
            raise Refusal(503, f"the service is {what}: ask again in a second", retry_after=1)

    async def vector(self, request: SearchRequest) -> Float32[np.ndarray, " D"]:
        """The vector that a search ranks by.

        Raises:
          Refusal: there is none.
        """
        engine = self.engine
        if request.product_id is not None:
            try:
                return await anyio.to_thread.run_sync(engine.vector_of, request.product_id)
            except NotFoundError:
                raise Refusal(404, "no product has this product_id", where="body.product_id") from None
        if request.vector is not None:
            return given(request.vector, engine.dim)
        wanted = await self._input(request)
        key = (engine.fingerprint, wanted)
        vector = self.cache.get(key)
        self.metrics.cache.labels("miss" if vector is None else "hit").inc()
        if vector is None:
            vector = await self.batcher.encode(wanted)
            if not np.isfinite(vector).all():
                raise Refusal(422, "the model gives this query a vector that is not finite", where="body.query")
            self.cache.put(key, vector)
        return vector

    async def _input(self, request: SearchRequest) -> QueryInput:
        text = request.query or ""
        if len(text) > self.options.limits.query_characters:
            most = self.options.limits.query_characters
            raise Refusal(422, f"the query has {len(text):,} characters: give {most:,} or fewer", where="body.query")
        image = None
        if request.image is not None:
            try:
                image = await anyio.to_thread.run_sync(fit_image, decoded(request.image), QUERY_IMAGE_EDGE)
            except (ValueError, BadRecord) as error:
                reason = error.reason if isinstance(error, BadRecord) else str(error)
                raise Refusal(
                    422, f"the search {reason}" if isinstance(error, BadRecord) else reason, where="body.image"
                ) from None
        return QueryInput(text, image, request.text_weight if text else 0.0, request.image_weight if image else 0.0)

    async def answer(self, request: SearchRequest) -> tuple[Answer, dict[str, float]]:
        """Answers a search, and says how many milliseconds its parts took.

        Raises:
          Refusal: it cannot be answered.
        """
        if request.k > self.options.limits.k:
            raise Refusal(422, f"k is {request.k}: give {self.options.limits.k:,} or fewer", where="body.k")
        started = time.perf_counter()
        vector = await self.vector(request)
        encoded = time.perf_counter()
        try:
            answer = await anyio.to_thread.run_sync(self.engine.search, vector, wanted_of(request))
        except GoneCursorError as error:
            raise Refusal(410, str(error), where="body.cursor") from None
        except UsageError as error:
            raise Refusal(422, str(error), where="body") from None
        done = time.perf_counter()
        self.metrics.parts.labels("encode").observe(encoded - started)
        self.metrics.parts.labels("rank").observe(done - encoded)
        return answer, {"encode": 1000 * (encoded - started), "rank": 1000 * (done - encoded)}


def given(values: Sequence[float], dim: int) -> Float32[np.ndarray, " D"]:
    """A caller's own vector, made a unit vector.

    Raises:
      Refusal: it is of another size, or has no direction.
    """
    if len(values) != dim:
        raise Refusal(422, f"the vector has {len(values)} numbers and the model's have {dim}", where="body.vector")
    vector = np.array(values, np.float64)
    length = float(np.sqrt(np.square(vector / (np.abs(vector).max() or 1)).sum()) * np.abs(vector).max())
    if not np.isfinite(length) or length == 0:
        raise Refusal(422, "the vector has no direction: give finite numbers that are not all 0", where="body.vector")
    return (vector / length).astype(np.float32)


def wanted_of(request: SearchRequest) -> Wanted:
    """What a request asks of the engine."""
    return Wanted(
        k=request.k,
        text=request.query or "",
        cursor=request.cursor,
        filter=request.filter,
        facets=request.facets,
        collapse=request.collapse,
        boosts=request.boosts,
        pins={one.product_id: one.rank for one in request.pins},
        without=frozenset(() if request.product_id is None else (request.product_id,)),
        hybrid=None if request.hybrid is None else Hybrid(**request.hybrid.model_dump()),
        refine=request.refine,
        rerank=request.rerank,
    )

"""Routes that change the catalogue; what they answer is on disk."""

import time
from collections.abc import Callable, Sequence

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from maxsearch.data.images import fit_image
from maxsearch.data.records import Product
from maxsearch.data.tables.formats import BadRecord
from maxsearch.errors import UsageError
from maxsearch.serving.http.guard import Gate
from maxsearch.serving.http.refusal import Refusal
from maxsearch.serving.http.schema import (
    ChangeAnswer,
    DeleteRequest,
    ProductRecord,
    UpsertRequest,
    decoded,
    documented,
)
from maxsearch.serving.http.search_routes import served
from maxsearch.serving.http.state import QUERY_IMAGE_EDGE, State


def product_routes(state: State, gate: Gate) -> APIRouter:
    """The routes of one service."""
    router = APIRouter(prefix="/v1/products", dependencies=[Depends(gate.admin), Depends(state.require_ready)])

    @router.post("", response_model=ChangeAnswer, responses=documented(), tags=["products"])
    async def upsert(request: UpsertRequest) -> Response:
        """Adds products, or replaces those of the same product_id; the next search finds them."""
        started = time.perf_counter()
        _require_few(state, len(request.products), "products")
        seen: set[str] = set()
        for place, one in enumerate(request.products):
            if one.product_id in seen:
                where = f"body.products.{place}.product_id"
                raise Refusal(422, f"{where}: this product_id stands twice in the request: send it once", where=where)
            seen.add(one.product_id)
        products = await run_in_threadpool(read, request.products)
        return await _changed(state, "upsert", started, lambda: state.engine.upsert(products))

    @router.post("/delete", response_model=ChangeAnswer, responses=documented(), tags=["products"])
    async def delete(request: DeleteRequest) -> Response:
        """Takes products out; the next search does not find them."""
        started = time.perf_counter()
        _require_few(state, len(request.product_ids), "product_ids")
        return await _changed(state, "delete", started, lambda: state.engine.delete(request.product_ids))

    return router


async def _changed(state: State, kind: str, started: float, change: Callable[[], int]) -> Response:
    try:
        count = await run_in_threadpool(change)
    except UsageError as error:
        raise Refusal(422, str(error), where="body") from None
    state.metrics.changes.labels(kind).inc(count)
    state.metrics.products.set(state.engine.products)
    return JSONResponse({"products": count, **served(state, state.engine.generation, started)})


def _require_few(state: State, count: int, what: str) -> None:
    most = state.options.limits.products
    if count > most:
        raise Refusal(422, f"{count:,} {what}: send {most:,} or fewer at a time", where=f"body.{what}")


def read(records: Sequence[ProductRecord]) -> list[Product]:
    """The products of a request, their pictures verified.

    Raises:
      Refusal: a picture cannot be used.
    """
    return [
        Product(
            one.product_id,
            one.title,
            tuple(_picture(image, f"body.products.{at}.images.{n}") for n, image in enumerate(one.images)),
            one.variant,
            one.attributes,
            tuple(one.texts),
        )
        for at, one in enumerate(records)
    ]


def _picture(image: str, where: str) -> bytes:
    try:
        return fit_image(decoded(image), QUERY_IMAGE_EDGE)
    except BadRecord as error:
        raise Refusal(422, f"{where} {error.reason}", where=where) from None
    except ValueError as error:
        raise Refusal(422, f"{where}: {error}", where=where) from None

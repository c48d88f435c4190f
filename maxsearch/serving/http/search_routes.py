"""Routes that read: search, batches of searches, explanations, pictures."""

import base64
import json
import time
from dataclasses import asdict
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, File, Form, UploadFile
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from maxsearch.errors import UsageError
from maxsearch.serving.http.guard import Gate
from maxsearch.serving.http.refusal import Refusal, printable
from maxsearch.serving.http.schema import (
    BatchAnswer,
    BatchRequest,
    ExplainAnswer,
    ExplainRequest,
    FieldsAnswer,
    Identifier,
    SearchAnswer,
    SearchRequest,
    documented,
)
from maxsearch.serving.http.state import State
from maxsearch.serving.shop.answer import Answer, NotFoundError

IMAGE_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def search_routes(state: State, gate: Gate) -> APIRouter:
    """The routes of one service."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(gate.reader), Depends(state.require_ready)])

    @router.post("/search", response_model=SearchAnswer, responses=documented(404, 410), tags=["search"])
    async def search(request: SearchRequest) -> Response:
        """Ranks the catalogue by text, image, both, another product, or a vector."""
        return JSONResponse(await answered(state, request))

    @router.post("/search/upload", response_model=SearchAnswer, responses=documented(404, 410), tags=["search"])
    async def upload(
        image: Annotated[UploadFile, File(description="A JPEG, PNG or WebP.")],
        search: Annotated[str, Form(description="The other fields of a search, as JSON.")] = "{}",
    ) -> Response:
        """Ranks the catalogue by a picture that comes as a file, and by what else the search says."""
        fields = fields_of(search)
        if "image" in fields:
            raise Refusal(422, "search.image stands beside the file: send one of them", where="search.image")
        data = base64.b64encode(await image.read()).decode()
        try:
            request = SearchRequest.model_validate({**fields, "image": data})
        except ValidationError as error:
            first = error.errors()[0]
            where = printable(".".join(("search", *map(str, first["loc"]))))
            raise Refusal(422, f"{where}: {first['msg'].removeprefix('Value error, ')}", where=where) from None
        return JSONResponse(await answered(state, request))

    @router.post("/search/batch", response_model=BatchAnswer, responses=documented(404, 410), tags=["search"])
    async def batch(request: BatchRequest) -> Response:
        """Answers several searches; one that is refused refuses all."""
        most = state.options.limits.batch
        if len(request.searches) > most:
            raise Refusal(422, f"{len(request.searches)} searches: give {most} or fewer", where="body.searches")
        started = time.perf_counter()
        answers: list[dict[str, Any]] = [{}] * len(request.searches)
        failed: list[Exception] = []

        async def one(place: int) -> None:
            try:
                answers[place] = await answered(state, request.searches[place])
            except Exception as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            for place in range(len(request.searches)):
                group.start_soon(one, place)
        if failed:
            raise failed[0]
        return JSONResponse({"answers": answers, **served(state, state.engine.generation, started)})

    @router.post("/explain", response_model=ExplainAnswer, responses=documented(404), tags=["search"])
    async def explain(request: ExplainRequest) -> Response:
        """Why a product fits a query: what title and picture give to its score, and a map per word."""
        started = time.perf_counter()
        most = state.options.limits.query_characters
        if len(request.query) > most:
            raise Refusal(
                422, f"the query has {len(request.query):,} characters: give {most:,} or fewer", where="body.query"
            )
        try:
            found = await run_in_threadpool(state.engine.explain, request.query, request.product_id)
        except NotFoundError:
            raise Refusal(404, "no product has this product_id", where="body.product_id") from None
        except UsageError as error:
            raise Refusal(422, str(error), where="body") from None
        return JSONResponse({"explanation": found, **served(state, state.engine.generation, started)})

    @router.get("/fields", response_model=FieldsAnswer, responses=documented(), tags=["search"])
    async def fields() -> Response:
        """The attributes that filters and facets may name, and their types."""
        started = time.perf_counter()
        found = [asdict(field) for field in state.engine.fields]
        return JSONResponse({"fields": found, **served(state, state.engine.generation, started)})

    @router.get(
        "/picture",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "The picture."}, **documented(404)},
        tags=["search"],
    )
    async def picture(product_id: Identifier) -> Response:
        """The front picture of a product."""
        try:
            data = await run_in_threadpool(state.engine.picture, product_id)
        except NotFoundError:
            data = None
        if data is None:
            raise Refusal(404, "no product of this product_id has a picture", where="query.product_id")
        kind = next((kind for head, kind in IMAGE_TYPES.items() if data.startswith(head)), "application/octet-stream")
        return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=300"})

    return router


def fields_of(search: str) -> dict[str, Any]:
    """The fields of a search that came as text.

    Raises:
      Refusal: it is no JSON object.
    """
    try:
        fields = json.loads(search)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Refusal(422, "search is no JSON object: send the search's fields as one", where="search")
    return fields


async def answered(state: State, request: SearchRequest) -> dict[str, Any]:
    """A search's answer as JSON values."""
    started = time.perf_counter()
    answer, parts = await state.answer(request)
    return {**of(answer), **served(state, answer.generation, started, parts)}


def of(answer: Answer) -> dict[str, Any]:
    """An answer as JSON values."""
    return {
        "hits": [vars(hit) for hit in answer.hits],
        "total": answer.total,
        "exact": answer.exact,
        "scanned": answer.scanned,
        "facets": answer.facets,
        "cursor": answer.cursor,
    }


def served(state: State, generation: str, started: float, parts: dict[str, float] | None = None) -> dict[str, Any]:
    """What every answer says of the service."""
    took = {**(parts or {}), "total": 1000 * (time.perf_counter() - started)}
    return {
        "generation": generation,
        "model": state.engine.fingerprint,
        "milliseconds": {name: round(value, 3) for name, value in took.items()},
    }

"""Routes for whoever watches the service: alive, ready, counters; and the page."""

import mimetypes
from importlib.resources import files

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from maxsearch.serving.http.guard import Gate
from maxsearch.serving.http.refusal import Refusal
from maxsearch.serving.http.schema import documented
from maxsearch.serving.http.state import State

PAGE = ("index.html", "page.css", "page.js", "icon.svg")


def health_routes(state: State, gate: Gate) -> APIRouter:
    """The routes of one service; only the counters need a key."""
    router = APIRouter()

    @router.get("/livez", tags=["health"])
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @router.get("/readyz", responses={503: documented()[503]}, tags=["health"])
    async def ready() -> Response:
        """Whether searches are answered: after the warm-up and the self-test, until the service is told to stop."""
        await state.require_ready()
        engine = state.engine
        return JSONResponse({"status": "ready", "generation": engine.generation, "model": engine.fingerprint})

    @router.get(
        "/metrics",
        response_class=Response,
        dependencies=[Depends(gate.reader)],
        responses={code: documented()[code] for code in (401, 429)},
        tags=["health"],
    )
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        state.metrics.waiting.set(len(state.batcher))
        return Response(state.metrics.exposition(), media_type=state.metrics.content_type)

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return asset("index.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return asset(name)

    return router


def asset(name: str) -> Response:
    """A file of the page.

    Raises:
      Refusal: there is no such file; names are compared with a list, so none leads elsewhere.
    """
    if name not in PAGE:
        raise Refusal(404, "the page has no such file")
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    data = files("maxsearch.serving.http").joinpath("page", name).read_bytes()
    return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

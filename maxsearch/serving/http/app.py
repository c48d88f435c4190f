"""The service as an ASGI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from maxsearch import __version__
from maxsearch.errors import MaxsearchError
from maxsearch.serving.http.guard import SCHEMES, SECURITY, Gate, Guard, hosts_of
from maxsearch.serving.http.health_routes import health_routes
from maxsearch.serving.http.keys import Keys
from maxsearch.serving.http.metrics import Metrics
from maxsearch.serving.http.options import ServeOptions
from maxsearch.serving.http.product_routes import product_routes
from maxsearch.serving.http.refusal import invalid, refused, response
from maxsearch.serving.http.search_routes import search_routes
from maxsearch.serving.http.state import State
from maxsearch.serving.shop.answer import Engine, UnavailableError

LOG = logging.getLogger("maxsearch.serve")
OPEN = ("/livez", "/readyz")
RETRY_SECONDS = 1


def create_app(engine: Engine, options: ServeOptions, keys: Keys, warmed: Callable[[], None] = lambda: None) -> FastAPI:
    """The application; `app.state.service` is its State.

    Its lifespan warms the engine up beside the running service, which answers /livez at once and the rest when ready;
    `warmed` is called in between.
    """
    metrics = Metrics()
    state = State(engine, options, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.batcher.start()
        tasks = [asyncio.create_task(begin(state, warmed)), asyncio.create_task(follow(state))]
        try:
            yield
        finally:
            state.ready, state.stopping = False, True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await state.batcher.stop()

    app = FastAPI(
        title="maxsearch",
        version=__version__,
        description="Text-to-multimodal product search.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    gate = Gate(keys, options.limits)
    app.include_router(health_routes(state, gate))
    app.include_router(search_routes(state, gate))
    app.include_router(product_routes(state, gate))
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(UnavailableError, unavailable)
    app.add_exception_handler(Exception, failed)
    hosts = hosts_of(options.loopback, keys, options.allowed_hosts)
    app.add_middleware(Guard, body_bytes=options.limits.body_bytes, hosts=hosts, metrics=metrics)
    app.state.service = state
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


async def begin(state: State, warmed: Callable[[], None]) -> None:
    """Warms up and tests, then lets requests in; a service that fails its own test never becomes ready."""
    try:
        await anyio.to_thread.run_sync(state.engine.warm_up)
    except MaxsearchError as error:
        LOG.error("not ready: %s", error)
        return
    serving(state)
    warmed()
    state.ready = True


async def follow(state: State) -> None:
    """Turns to each new generation as it is published; what keeps failing is told once."""
    told = ""
    while True:
        await asyncio.sleep(state.options.refresh_seconds)
        try:
            if await anyio.to_thread.run_sync(state.engine.refresh):
                serving(state)
                LOG.info("serving generation %s", state.engine.generation)
            told = ""
        except MaxsearchError as error:
            if str(error) != told:
                LOG.error("the new generation is not served: %s", error)
            told = str(error)


def serving(state: State) -> None:
    """Tells the counters what is served."""
    engine = state.engine
    state.metrics.serving(engine.generation, engine.fingerprint, engine.products)


async def unavailable(request: Any, error: Exception) -> Any:
    """The answer while what the engine searches cannot be reached."""
    return response(503, str(error), headers={"Retry-After": str(RETRY_SECONDS)})


async def failed(request: Any, error: Exception) -> Any:
    """The answer to an error that nobody expected; the log has the rest."""
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return response(500, "the service failed at this request: its log says why")


def document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI's document, with the two ways to show a key."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema["components"]["securitySchemes"] = SCHEMES
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                if path not in OPEN:
                    operation["security"] = [*SECURITY, {}]
        app.openapi_schema = schema
    return app.openapi_schema

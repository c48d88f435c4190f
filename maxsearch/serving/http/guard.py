"""What stands before every route: names, sizes, keys, rates, and the headers of every answer."""

import math
import time
from collections import OrderedDict
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxsearch.serving.http.keys import ADMIN, Keys
from maxsearch.serving.http.metrics import Metrics
from maxsearch.serving.http.options import Limits
from maxsearch.serving.http.refusal import Refusal, response

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    b"form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
CLIENTS = 10_000


class Guard:
    """ASGI middleware that refuses what is too large or called by another name, counts requests, and adds headers.

    Args:
      app: what stands behind it.
      body_bytes: largest body.
      hosts: names by which the service may be called; empty lets every name pass.
      metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, body_bytes: int, hosts: tuple[str, ...], metrics: Metrics) -> None:
        self._app, self._body_bytes, self._hosts, self._metrics = app, body_bytes, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, taken = time.perf_counter(), 500, 0

        async def sized() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._body_bytes:
                raise Refusal(413, f"the body is larger than {self._body_bytes:,} bytes: send less at a time")
            return message

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                policy = scope.get("maxsearch.policy", POLICY)
                message["headers"] = [*message.get("headers", ()), *HEADERS, (b"content-security-policy", policy)]
            await send(message)

        refusal = self._refusal(dict(scope["headers"]))
        try:
            if refusal is not None:
                await response(refusal.status_code, refusal.detail, refusal.where)(scope, sized, tagged)
            else:
                await self._app(scope, sized, tagged)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, headers: dict[bytes, bytes]) -> Refusal | None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._hosts and name not in self._hosts:
            return Refusal(421, "the service is not called by this name: add it with --allowed-hosts", where="Host")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._body_bytes:
            return Refusal(413, f"the body is larger than {self._body_bytes:,} bytes: send less at a time")
        return None


class Buckets:
    """How many requests each caller may make: `rate` a second, and `burst` at once."""

    def __init__(self, limits: Limits) -> None:
        self._rate, self._burst = limits.rate, limits.burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now: float) -> None:
        """Counts a request.

        Raises:
          Refusal: the caller has made too many.
        """
        if not self._rate:
            return
        left, since = self._left.pop(caller, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._rate)
        self._left[caller] = (max(0.0, left - 1), now)
        while len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        if left < 1:
            wait = math.ceil((1 - left) / self._rate)
            raise Refusal(429, f"too many requests: ask again in {wait} s", retry_after=wait)


class Gate:
    """Who may ask: the key of a request, its role, and its rate.

    Its dependencies are coroutines because FastAPI sends plain functions through its threads, which costs each request
    more than they do.

    Args:
      keys: of the service; without any, whoever reaches it may do everything.
      limits: for the rate.
    """

    def __init__(self, keys: Keys, limits: Limits) -> None:
        self._keys, self._buckets = keys, Buckets(limits)

    async def reader(self, request: Request) -> None:
        """A FastAPI dependency: any key will do."""
        self._admit(request)

    async def admin(self, request: Request) -> None:
        """A FastAPI dependency: the key must be an admin's."""
        role = self._admit(request)
        if role not in (None, ADMIN):
            raise Refusal(403, "this key may only read: use an admin key to change the catalogue")

    def _admit(self, request: Request) -> str | None:
        caller = request.client.host if request.client else ""
        role = None
        if self._keys:
            key = self._keys.role_of(presented(request))
            if key is None:
                raise Refusal(401, "no key, or none of this service: send Authorization: Bearer KEY or X-API-Key: KEY")
            caller, role = key.name, key.role
        self._buckets.take(caller, time.monotonic())
        return role


def presented(request: Request) -> str:
    """The key that a request shows; empty when it shows none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def hosts_of(loopback: bool, keys: Keys, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The names by which the service may be called.

    A page of elsewhere can make a browser call a name of its own that leads to this machine. Without keys nothing else
    would stop it, so loopback then answers to its own names only.
    """
    if allowed:
        return allowed
    return LOOPBACK_NAMES if loopback and not keys else ()


SECURITY: list[dict[str, Any]] = [{"bearer": []}, {"key": []}]
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

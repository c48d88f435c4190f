"""A refused request: one sentence, a code for programs, and the status."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

CODES = {
    400: "bad_request",
    401: "no_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    410: "gone",
    413: "too_large",
    415: "unsupported_media_type",
    421: "wrong_host",
    422: "invalid",
    429: "too_many_requests",
    500: "failed",
    503: "unavailable",
}


class Refusal(HTTPException):
    """Raised wherever a request is refused.

    Args:
      status: HTTP status.
      message: what is wrong and what to do, in one sentence.
      where: the part of the request, such as "body.k".
      retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, message: str, *, where: str = "", retry_after: int | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.where = where


def body_of(status: int, message: str, where: str = "") -> dict[str, Any]:
    """The JSON of an error."""
    error = {"code": CODES.get(status, "failed"), "message": message}
    return {"error": {**error, "where": where} if where else error}


def response(status: int, message: str, where: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response of an error."""
    return JSONResponse(body_of(status, message, where), status, dict(headers or {}))


async def refused(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for HTTPException."""
    assert isinstance(error, HTTPException)
    return response(error.status_code, str(error.detail), getattr(error, "where", ""), error.headers)


async def invalid(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for bodies, paths and parameters that do not fit their types."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return response(400, "the body is no JSON: send a JSON object with Content-Type application/json", "body")
    return response(422, f"{printable(where)}: {first['msg'].removeprefix('Value error, ')}", printable(where))


def printable(text: str) -> str:
    """A part of a request that may stand in an answer."""
    return text.encode("utf-8", "replace").decode()[:200]

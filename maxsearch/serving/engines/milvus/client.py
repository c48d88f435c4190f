"""The connection to Milvus; what goes wrong there becomes one sentence."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.engines.milvus.options import MilvusOptions
from maxsearch.serving.shop.answer import UnavailableError

TOKEN = "MILVUS_TOKEN"
LOST = {100: "is gone", 101: "is not loaded", 103: "is not loaded"}
"""Milvus's codes for a collection that cannot be asked."""
RECONNECTING = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 1000}
"""gRPC would wait for up to two minutes before it tries a server again that was away."""
OUT_OF_REACH = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})  # of gRPC
NOT_AVAILABLE = 2  # of Milvus, and of its client without a connection


class LostCollectionError(UnavailableError):
    """The collection is gone, for a push dropped it, or not in memory, for the server was started anew."""


def connect(options: MilvusOptions, environment: Mapping[str, str] | None = None) -> Any:
    """A `pymilvus.MilvusClient`.

    Args:
      options: where Milvus is.
      environment: may hold the token; the process's own when None.

    Raises:
      UsageError: no URI, one that is none, or pymilvus is not installed.
      UnavailableError: no Milvus answers there.
    """
    if not options.uri:
        raise UsageError("no Milvus is named: give the URI of a server, http://HOST:19530, or a path that ends in .db")
    if options.timeout <= 0:
        raise UsageError(f"the timeout of Milvus is {options.timeout:g} seconds: give more than 0")
    try:
        from pymilvus import MilvusClient
    except ImportError:
        raise UsageError("Milvus needs the extra of the same name: pip install 'maxsearch[milvus]'") from None
    local = options.uri.endswith(".db") and "://" not in options.uri
    if local and not Path(options.uri).absolute().parent.is_dir():
        raise UsageError(f"{options.uri} cannot be opened, for its folder does not exist: make it first")
    for name in ("pymilvus", "milvus_lite", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log tracebacks of what they raise and recover from
    token = (os.environ if environment is None else environment).get(TOKEN, "")
    with milvus(f"open {options.uri}", hint=": another process may have it open" if local else ""):
        return MilvusClient(options.uri, token=token, timeout=options.timeout, grpc_options=RECONNECTING)


@contextmanager
def milvus(purpose: str, *, hint: str = "") -> Iterator[None]:
    """Turns what the client raises into our errors.

    Args:
      purpose: what is asked of Milvus, after "Milvus could not".
      hint: what to say after the reason.

    Raises:
      UnavailableError: Milvus cannot be reached.
      LostCollectionError: the collection is gone or not loaded.
      MaxsearchError: Milvus refused.
    """
    import grpc
    from pymilvus.exceptions import (
        ConnectError,
        ConnectionConfigException,
        ConnectionNotExistException,
        MilvusException,
        MilvusUnavailableException,
    )

    try:
        yield
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else None
        raise _told(purpose, hint, code, str(error.details() if isinstance(error, grpc.Call) else error)) from None
    except (ConnectError, ConnectionNotExistException, MilvusUnavailableException) as error:
        raise UnavailableError(_out_of_reach(purpose, error.message)) from None
    except ConnectionConfigException as error:
        raise UsageError(f"Milvus could not {purpose} ({_line(error.message)}){hint}") from None
    except MilvusException as error:
        raise _told(purpose, hint, error.code, error.message) from None


def _told(purpose: str, hint: str, code: Any, message: str) -> MaxsearchError:
    if getattr(code, "name", "") in OUT_OF_REACH or code == NOT_AVAILABLE:
        return UnavailableError(_out_of_reach(purpose, message))
    if code in LOST:
        return LostCollectionError(
            f"Milvus could not {purpose}, for the collection {LOST[code]}: push the generation again"
        )
    return MaxsearchError(f"Milvus could not {purpose} ({_line(message)}){hint}")


def _out_of_reach(purpose: str, message: str) -> str:
    return f"Milvus cannot be reached to {purpose} ({_line(message)}): see that it runs and that its address is right"


def _line(message: str) -> str:
    return " ".join(str(message).split())[:200]

"""Runs the service: binds, announces, serves, and drains on SIGTERM."""

import gc
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.http.app import create_app
from maxsearch.serving.http.keys import Keys
from maxsearch.serving.http.options import ServeOptions
from maxsearch.serving.shop.answer import Engine

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the minute after which proxies commonly close theirs."""
COLLECT_AFTER = (10_000, 10, 10)
"""Python's default looks through the cached query vectors every 200 searches or so, for 15 ms, and finds nothing."""


class Server(uvicorn.Server):
    """uvicorn's server; from the first signal on /readyz says no, so that a load balancer turns away."""

    def handle_exit(self, sig: int, frame: object) -> None:
        """Takes a signal."""
        state = self.config.app.state.service  # type: ignore[union-attr]
        state.stopping = True
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def require_keys(options: ServeOptions, keys: Keys) -> None:
    """Refuses to let others in without a key.

    Raises:
      UsageError: the address is not loopback and there is no key.
    """
    if not options.loopback and not keys:
        raise UsageError(
            f"--host {options.host} lets other machines in and there is no key: give --keys FILE, or set "
            "MAXSEARCH_READ_KEY and MAXSEARCH_ADMIN_KEY, or bind 127.0.0.1"
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      MaxsearchError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        listening.close()
        raise MaxsearchError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --host or --port"
        ) from None
    return listening


def settle() -> None:
    """Keeps the search for garbage from stopping answers: what is loaded and compiled stays, and is not searched."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def serve(engine: Engine, options: ServeOptions, keys: Keys, announce: Callable[[str], None] = print) -> None:
    """Serves until a signal.

    Raises:
      UsageError: see `require_keys`.
      MaxsearchError: see `bind`.
    """
    require_keys(options, keys)
    listening = bind(options.host, options.port)
    logging.getLogger("maxsearch.serve").setLevel(logging.INFO)
    config = uvicorn.Config(
        create_app(engine, options, keys, settle),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(options.drain_seconds) or None,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE,
    )
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{port}/")
    # uvicorn raises the signal again once it has drained; by then there is nothing left to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with listening:
        Server(config).run(sockets=[listening])

"""An application that listens, for tests that need more than a client in the same process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import uvicorn
from fastapi import FastAPI

from maxsearch.serving.http.server import bind


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serves on a port that the system chooses, and gives the address once the service is ready."""
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    try:
        for _ in range(500):
            with suppress(httpx.HTTPError):
                if httpx.get(f"{address}readyz").status_code == 200:
                    break
            time.sleep(0.02)
        yield address
    finally:
        server.should_exit = True
        thread.join()
        listening.close()

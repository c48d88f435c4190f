"""A small catalogue, stores of it, and Milvus-Lite as a database in this process or as a server of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from maxsearch.data.records import Product
from maxsearch.serving.index import IndexOptions
from maxsearch.serving.store.publish import build_generation
from tests.serving_fakes import FakeEncoder

ENCODER = FakeEncoder.make()
COLOURS, KINDS = ("red", "navy", "olive"), ("shoes", "shirt", "hat", "belt")


def products(count: int = 60, word: str = "") -> list[Product]:
    return [
        Product(
            f"p{n}",
            f"{COLOURS[n % 3]} {KINDS[n % 4]} number {n} {word}".strip(),
            variant=f"v{n // 3}" if n % 2 else "",
            attributes={"colour": COLOURS[n % 3], "price": str(n)} | ({"in_stock": "true"} if n % 5 else {}),
            texts=("fine suede",) if n % 7 == 0 else (),
        )
        for n in range(count)
    ]


def publish(store: Path, catalogue: list[Product], encoder: FakeEncoder = ENCODER, **options: object) -> str:
    return build_generation(encoder, catalogue, store, IndexOptions(**options)).name


def vector(text: str) -> np.ndarray:
    return ENCODER.encode_queries([text])[0]


def truth(catalogue: list[Product], text: str) -> list[str]:
    vectors = np.concatenate([batch.p for batch in ENCODER.encode_products(catalogue)]).astype(np.float64)
    scores = np.round(vectors @ vector(text).astype(np.float64), 6)
    return [catalogue[row].product_id for row in np.argsort(-scores, kind="stable")]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def lite_server(data: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Milvus-Lite as a gRPC server in a process of its own; it is killed at the end."""
    words = ["-m", "milvus_lite", "server", "--data-dir", str(data), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(1200):
                assert process.poll() is None
                with socket.socket() as one:
                    if one.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield process
        finally:
            process.kill()

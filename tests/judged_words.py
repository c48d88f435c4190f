"""200 products and 20 judged queries of five words for colours and things, and a model that knows the words."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maxsearch.data.records import Product
from maxsearch.evaluation.metrics import METRICS
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.evaluation.results import Evaluation

COLOURS = ("red", "blue", "green", "black")
THINGS = ("shoe", "hat", "belt", "shirt", "watch")
WORDS = COLOURS + THINGS
WIDTH = 32


@dataclass
class Batch:
    products: list[Product]
    p: np.ndarray
    t: np.ndarray
    v: np.ndarray
    weights: np.ndarray


class WordEncoder:
    """One coordinate per known word; the image's vector is the title's, turned round."""

    image_edge = 32
    fingerprint = "0123456789abcdef"

    def __init__(self) -> None:
        self.encoded = 0

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(queries), WIDTH), np.float32)
        for vector, text in zip(vectors, queries, strict=True):
            for word in set(text.split()) & set(WORDS):
                vector[WORDS.index(word)] = 1
        return vectors

    def encode_products(self, products: Iterable[Product]) -> Iterator[Batch]:
        for product in products:
            self.encoded += 1
            t = self.encode_queries([product.title])
            weights = np.array([[0.25, 0.75] if "red" in product.title else [0.5, 0.5]], np.float32)
            yield Batch([product], 2 * t, t, t[:, ::-1].copy(), weights)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    return stream.getvalue()


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def options(tmp_path: Path) -> EvaluateOptions:
    """200 products (ten of each colour and thing), and 20 queries with graded judgments."""
    (tmp_path / "a.png").write_bytes(png())
    products, judgments = [], []
    for number in range(200):
        colour, thing = COLOURS[number % 4], THINGS[number // 4 % 5]
        products.append({"product_id": f"p{number:03}", "name": f"{colour} {thing}", "image": "a.png"})
        for query in range(20):
            same = (COLOURS[query % 4] == colour) + 2 * (THINGS[query // 4] == thing)
            if same >= 2:
                judgments.append({"query_id": f"q{query}", "product_id": f"p{number:03}", "grade": same - 1})
    queries = [{"query_id": f"q{n}", "query": f"{COLOURS[n % 4]} {THINGS[n // 4]}"} for n in range(20)]
    return EvaluateOptions(
        products=table(tmp_path / "products.csv", products),
        queries=table(tmp_path / "queries.csv", queries),
        qrels=table(tmp_path / "qrels.csv", judgments),
        columns={"title": "name"},
        image_dir=tmp_path,
    )


def means(evaluation: Evaluation, name: str) -> dict[str, float | None]:
    return {metric: evaluation.row(name).mean(metric) for metric in METRICS}


def append(path: Path, *lines: str) -> None:
    with path.open("a", newline="") as stream:
        stream.writelines(f"{line}\r\n" for line in lines)

"""Stores of a few products whose vectors are small whole numbers, so that every score is exact."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from maxsearch.data.records import Product
from maxsearch.serving.build import build_index
from maxsearch.serving.items import Item
from maxsearch.serving.store.publish import build_generation
from maxsearch.serving.store.snapshot import Snapshot
from maxsearch.serving.store.writes import Upsert
from tests.serving_fakes import FakeBatch

DIM = 4


def vector_of(title: str) -> np.ndarray:
    """Titles are whole numbers: "3 -1 0 2"."""
    return np.array([float(word) for word in title.split()], np.float32)


class NumberEncoder:
    """Embeds a title of DIM numbers as these numbers."""

    dim = DIM

    def __init__(self, fingerprint: str = "f" * 64) -> None:
        self.fingerprint = fingerprint

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        return np.stack([vector_of(query) for query in queries])

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[FakeBatch]:
        for product in products:
            p = vector_of(product.title)[None]
            yield FakeBatch([product], p, p, p, np.ones((1, 2), np.float32))


def titled(number: int) -> str:
    """A title that is told by a number: its digits to the base of 7, less 3."""
    return " ".join(str(number // 7**place % 7 - 3) for place in range(DIM))


def upsert(product_id: str, title: str) -> Upsert:
    return Upsert(Item(product_id, title, "", {"of": product_id}), vector_of(title))


def products_of(titles: Mapping[str, str]) -> list[Product]:
    return [Product(product_id, title, attributes={"of": product_id}) for product_id, title in titles.items()]


def make_store(store: Path, titles: Mapping[str, str], encoder: NumberEncoder | None = None, **options: object) -> str:
    """Builds a generation and gives its name."""
    return build_generation(encoder or NumberEncoder(), products_of(titles), store, **options).name


def make_index(out: Path, titles: Mapping[str, str], encoder: NumberEncoder | None = None) -> Path:
    build_index(encoder or NumberEncoder(), products_of(titles), out)
    return out


def contents(snapshot: Snapshot) -> dict[str, str]:
    """Title by id of all that a search returns, after checking its order, scores and items."""
    if len(snapshot) == 0:
        return {}
    query = np.array([[2, 1, -1, 3]], np.float32)
    rows, scores = snapshot.search(query, len(snapshot) + 3)
    assert (rows[0, -3:] == -1).all() and np.isneginf(scores[0, -3:]).all()
    rows, scores = rows[0, :-3], scores[0, :-3]
    assert (rows >= 0).all() and (np.diff(scores) <= 0).all()
    items = snapshot.take(rows.tolist())
    for row, item, score, vector in zip(rows, items, scores, snapshot.vectors(rows), strict=True):
        np.testing.assert_array_equal(vector, vector_of(item.title))
        assert score == vector @ query[0]
        assert item.attributes == {"of": item.product_id}
        assert snapshot.row(item.product_id) == row
    few, _ = snapshot.search(query, 2)
    assert set(few[0].tolist()) <= {*rows.tolist(), -1}
    titles = {item.product_id: item.title for item in items}
    assert len(titles) == len(items) == len(snapshot)
    return titles

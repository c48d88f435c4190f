"""An engine of a few lines: scores every product of a small catalogue by the fake model's vectors."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.serving.shop.answer import Answer, Field, Found, NotFoundError, QueryInput, Wanted
from tests.serving_fakes import CATALOGUE, FakeEncoder, unit


class FakeEngine:
    def __init__(self, products: Sequence[Product] = CATALOGUE) -> None:
        self.encoder = FakeEncoder.make()
        self.generation = "g1"
        self.published: str | None = None
        self.batches: list[int] = []
        self.held = threading.Event()
        self.held.set()
        self._products = {product.product_id: product for product in products}

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def products(self) -> int:
        return len(self._products)

    @property
    def fields(self) -> list[Field]:
        return [Field("colour", "string", True), Field("price", "float", False)]

    def encode(self, inputs: Sequence[QueryInput]) -> np.ndarray:
        self.held.wait(10)
        self.batches.append(len(inputs))
        texts = self.encoder.encode_queries([one.text for one in inputs])
        return np.stack(
            [t if one.text else self.encoder._image(one.image) for t, one in zip(texts, inputs, strict=True)]
        )

    def vector_of(self, product_id: str) -> np.ndarray:
        if product_id not in self._products:
            raise NotFoundError
        return next(self.encoder.encode_products([self._products[product_id]])).p[0]

    def search(self, vector: np.ndarray, wanted: Wanted) -> Answer:
        kept = [product for product in self._products.values() if product.product_id not in wanted.without]
        for condition in () if wanted.filter is None else wanted.filter.get("and", [wanted.filter]):
            if "in" not in condition:
                raise UsageError("filter: no such operator: use in")
            field, values = condition["in"]["field"], condition["in"]["values"]
            kept = [product for product in kept if product.attributes.get(field) in values]
        vectors = (
            np.concatenate([batch.p for batch in self.encoder.encode_products(kept)])
            if kept
            else np.zeros((0, self.dim))
        )
        scores = vectors @ vector
        order = np.argsort(-scores, kind="stable")[: wanted.k]
        hits = [
            Found(
                rank,
                kept[row].product_id,
                kept[row].title,
                float(scores[row]),
                {"dense": float(scores[row])},
                kept[row].attributes,
                picture=kept[row].image is not None,
            )
            for rank, row in enumerate(order.tolist(), 1)
        ]
        counted = {
            name: [
                {"value": value, "count": sum(p.attributes.get(name) == value for p in kept)}
                for value in sorted({p.attributes[name] for p in kept if name in p.attributes})
            ]
            for name in wanted.facets
        }
        return Answer(hits, self.generation, True, len(kept), len(kept), counted)

    def upsert(self, products: Sequence[Product]) -> int:
        self._products |= {product.product_id: product for product in products}
        return len(products)

    def delete(self, product_ids: Sequence[str]) -> int:
        return sum(self._products.pop(product_id, None) is not None for product_id in product_ids)

    def explain(self, text: str, product_id: str) -> dict[str, Any]:
        if product_id not in self._products:
            raise NotFoundError
        score = float(unit(self.encoder.encode_queries([text]))[0] @ self.vector_of(product_id))
        product = self._products[product_id]
        share = {"both": score, "title_only": score, "image_only": 0.0, "neither": 0.0, "title": score, "image": 0.0}
        grid = [[float(row * column) for column in range(5)] for row in range(7)]
        words = text.split()
        return {
            "query": text,
            "product_id": product_id,
            "title": product.title,
            "score": score,
            "contributions": {**share, "weights": [0.6, 0.4], "parts": []},
            "words": [{"word": word, "effect": score / len(words)} for word in words],
            "maps": [{"word": word, "kind": "occlusion", "values": grid} for word in words] if product.image else [],
        }

    def picture(self, product_id: str) -> bytes | None:
        if product_id not in self._products:
            raise NotFoundError
        return self._products[product_id].image

    def refresh(self) -> bool:
        changed, self.published = self.published, None
        self.generation = changed or self.generation
        return changed is not None

    def warm_up(self) -> None:
        self.held.wait(10)

"""Which map of a word points at what the word names? Occlusion, gradients and the aligner's, on a drawn catalogue.

python benchmarks/pointing.py --run RUN --catalogue CATALOGUE

RUN is a run of any preset on CATALOGUE, a folder of `maxsearch.data.synthetic.write_catalogue`. Prints one JSON line:
the pointing game's figures of `maxsearch explain --alignments`, and those of two maps that explain does not use, on its
cells: the gradient of the word's score by the pixels times the pixels (less the paint), and occlusion with the title in
place. With them stands how long `explain` takes for a product and its title as the query: the median in milliseconds.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from maxsearch.data.records import Product
from maxsearch.data.transforms import eval_image
from maxsearch.encode import Encoder
from maxsearch.explain.explain import explain
from maxsearch.explain.maps import border_colour, cells_of, occlusion, painted
from maxsearch.explain.pointing import PointingGame, places, play, read_alignments
from maxsearch.mesh import put_batch
from maxsearch.models.search import SearchModel
from maxsearch.serving.catalogue import catalogue
from maxsearch.training.state import model_graph

TIMED = 20


class Gradients:
    """The gradient of q.p by the pixels of the front picture, for several words at once; the title is left out."""

    def __init__(self, encoder: Encoder) -> None:
        if encoder.config.model.align.visual_words:
            raise SystemExit("gradient x input is for models without visual words: their choice has no gradient")
        with jax.set_mesh(encoder._mesh):
            graph = model_graph(encoder.config)

        def score(pixels: jax.Array, params: Any, b: dict[str, jax.Array]) -> jax.Array:
            model: SearchModel = nnx.merge(graph, params)
            p = model.encode_product(b["ids"], b["mask"], pixels, b["present"]).product
            return (p * b["query"]).sum()

        self._encoder, self._gradient = encoder, jax.jit(jax.grad(score))

    def maps(self, product: Product, queries: np.ndarray) -> np.ndarray:
        """Sums over cells, [words, rows, columns]."""
        model, n = self._encoder.config.model, len(queries)
        rows, columns = cells_of(model.image.size, model.image.patch)
        shown = eval_image(product.image, model.image.size)
        picture = shown.astype(np.float32)
        text = np.zeros((n, model.texts * model.title.max_tokens), np.int32)
        batch = {
            "ids": text,
            "mask": text.astype(bool),
            "present": np.arange(model.images)[None].repeat(n, axis=0) < 1,
            "query": queries,
            "image": np.repeat(picture[None, None], n, axis=0),
        }
        mesh = self._encoder._mesh
        with jax.set_mesh(mesh):
            placed = put_batch(batch, mesh)
            found = self._gradient(placed["image"], self._encoder.params, placed)
        times = (np.asarray(found)[:, 0] * (picture - border_colour(shown))).sum(axis=-1)
        H, W = model.image.size
        return times.reshape(n, rows, H // rows, columns, W // columns).sum(axis=(2, 4))


def with_title(encoder: Encoder, product: Product, queries: np.ndarray) -> np.ndarray:
    """Occlusion of the product with its title, [words, rows, columns]."""
    model = encoder.config.model
    rows, columns = cells_of(model.image.size, model.image.patch)
    picture = eval_image(product.image, model.image.size)
    vectors = encoder.encode_painted(product, painted(picture, border_colour(picture), rows, columns))
    return (-queries @ vectors.T).reshape(len(queries), rows, columns)


def read(path: Path, edge: int) -> Iterator[Product]:
    return catalogue(products=path, data=None, columns={}, image_dir=None, edge=edge, max_bad_fraction=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--most", type=int, default=500)
    arguments = parser.parse_args()
    encoder = Encoder.from_run(arguments.run)
    alignments = read_alignments(arguments.catalogue / "alignments.jsonl")
    file = arguments.catalogue / "products.test.parquet"
    used = play(encoder, read(file, encoder.image_edge), alignments, arguments.most)

    game = PointingGame()
    gradients = None if encoder.config.model.align.visual_words else Gradients(encoder)
    known = [one for one in read(file, encoder.image_edge) if one.product_id in alignments][: arguments.most]
    for product in known:
        hidden = occlusion(encoder, product)
        for word, inside in places(encoder, alignments[product.product_id], hidden.rows, hidden.columns).items():
            query = encoder.encode_queries([word])
            game.add("occlusion with the title", with_title(encoder, product, query)[0], inside)
            if gradients is not None:
                game.add("gradient x input", gradients.maps(product, query)[0], inside)
    clock = []
    for product in [known[0], *known[:TIMED]]:  # the first one compiles
        start = time.perf_counter()
        explain(encoder, product.title, product)
        clock.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "benchmark": "pointing",
                "run": str(arguments.run),
                "products": used["products"],
                "used": used["maps"],
                "not used": game.figures(),
                "milliseconds": round(1e3 * float(np.median(clock[1:])), 1),
            }
        )
    )


if __name__ == "__main__":
    main()

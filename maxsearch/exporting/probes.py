"""Queries and products that every export is tried on, and their vectors, which travel with it.

Whoever runs an exported model elsewhere feeds it the same probes and compares.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.files import write_json
from maxsearch.model_files import MODEL, write_arrays
from maxsearch.program_files import PROBE_ARRAYS, PROBE_VECTORS, PROBES
from maxsearch.serving.encoder import EmbeddingModel

QUERIES = (
    "navy blue casual shoes for men",
    "dress",
    "Gürtel aus Leder, 90 cm",
    "赤い かばん",
    "a very long query that says much more about the wooden garden table than any title has room for " * 4,
)

Vectors = Mapping[str, np.ndarray]


def probe_products() -> list[Product]:
    """Products with title and image, with a title alone, and with an image alone."""
    ramp = np.arange(96, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], 2 * ramp[None, :64], np.uint8(128)), axis=-1)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    image = stream.getvalue()
    return [
        Product("both", "Navy blue casual shoes", (image,)),
        Product("title", "Wooden garden table, 180 cm"),
        Product("image", "", (image,)),
    ]


def probe_vectors(encoder: EmbeddingModel) -> dict[str, np.ndarray]:
    """The encoder's vectors of the probe queries and products, by name: q [Q, D]; p, t, v [P, D]; weights [P, 2]."""
    batches = list(encoder.encode_products(probe_products()))
    vectors = {"q": np.asarray(encoder.encode_queries(QUERIES))}
    for name in ("p", "t", "v", "weights"):
        vectors[name] = np.concatenate([np.asarray(getattr(batch, name)) for batch in batches])
    return vectors


def write_probes(folder: Path, vectors: Vectors) -> None:
    """Writes the probes and their vectors into a model folder.

    Raises:
      MaxsearchError: a vector is not finite.
    """
    for name, rows in vectors.items():
        if not np.isfinite(rows).all():
            raise MaxsearchError(
                f"the model gives {name} vectors that are not finite: choose an earlier step of the run"
            )
    products = [
        {"title": product.title, "image": base64.b64encode(product.image).decode() if product.image else None}
        for product in probe_products()
    ]
    write_json(folder / PROBES, {"queries": QUERIES, "products": products})
    write_arrays(folder / PROBE_VECTORS, vectors)


def write_probe_arrays(folder: Path, queries: Vectors, products: Vectors) -> None:
    """Writes what the programs read for the probes, so that preprocessing elsewhere can be compared too."""
    arrays = {f"query/{name}": rows for name, rows in queries.items()}
    arrays |= {f"product/{name}": rows for name, rows in products.items()}
    (folder / PROBE_ARRAYS).parent.mkdir(exist_ok=True)
    write_arrays(folder / PROBE_ARRAYS, {name: np.ascontiguousarray(rows) for name, rows in arrays.items()})


def read_probe_vectors(folder: Path) -> dict[str, np.ndarray]:
    """What `write_probes` wrote; the folder has passed `verify_model`.

    Raises:
      MaxsearchError: the model was exported without them.
    """
    if not (folder / PROBE_VECTORS).is_file():
        raise MaxsearchError(f"the model {folder} has no {PROBE_VECTORS}: {MODEL.remedy}")
    return load_file(folder / PROBE_VECTORS)


def difference(expected: Vectors, found: Vectors, tolerance: float) -> tuple[str, float] | None:
    """The first kind of vectors that differs by more than the tolerance, and by how much; None when all agree."""
    for name, rows in expected.items():
        worst = float(np.abs(found[name] - rows).max()) if found[name].shape == rows.shape else np.inf
        if not worst <= tolerance:  # also true of NaN
            return name, worst
    return None


def cosines(exact: Vectors, rounded: Vectors) -> dict[str, dict[str, float]]:
    """Mean and least cosine of rounded vectors with exact ones, of queries (q) and products (p)."""
    found = {}
    for name in ("q", "p"):
        a, b = exact[name].astype(np.float64), rounded[name].astype(np.float64)
        cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        found[name] = {"mean": float(cosine.mean()), "min": float(cosine.min())}
    return found

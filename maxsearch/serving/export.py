"""Writes a trained model as plain files, and proves that they give the same vectors."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maxsearch.data.keywords import KEYWORDS
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.files import directory_in_place, write_json
from maxsearch.manifest import require_replaceable, write_manifest
from maxsearch.model_files import CONFIG, MODEL, TOKENIZER, flatten_params, write_weights
from maxsearch.serving.encoder import EmbeddingModel, ExportableModel

TOLERANCE = 1e-6

PROBE_QUERIES = (
    "navy blue casual shoes for men",
    "dress",
    "Gürtel aus Leder, 90 cm",
    "赤い かばん",
    "a very long query that says much more about the wooden garden table than any title has room for " * 4,
)


def export(
    encoder: ExportableModel,
    out: Path,
    *,
    reload: Callable[[Path], EmbeddingModel],
    step: int | None = None,
) -> dict[str, Any]:
    """Writes a model folder: weights (safetensors), config (JSON), tokenizer, keywords, and a checksummed manifest.

    The folder is put in place only after the model read back from it gives the encoder's vectors.

    Args:
      encoder: the model.
      out: the folder; an older model folder there is replaced.
      reload: reads a model folder (`Encoder.from_model`).
      step: the training step that the parameters come from, for the manifest.

    Returns:
      The manifest.

    Raises:
      UsageError: something other than a model folder stands at `out`.
      MaxsearchError: a parameter or vector is not finite, or the model read back differs.
    """
    require_replaceable(out, [MODEL])
    _require_finite_params(encoder.params)
    with directory_in_place(out) as draft:
        write_weights(draft, encoder.params)
        write_json(draft / CONFIG, encoder.config.to_json())
        encoder.tokenizer.save_pretrained(draft / TOKENIZER)
        if encoder.lexicon is not None:
            encoder.lexicon.save(draft / KEYWORDS)
        manifest = write_manifest(draft, MODEL, {"fingerprint": encoder.fingerprint, "step": step})
        _require_same(encoder, reload(draft), out)
    return manifest


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
    vectors = {"q": np.asarray(encoder.encode_queries(PROBE_QUERIES))}
    for name in ("p", "t", "v", "weights"):
        vectors[name] = np.concatenate([np.asarray(getattr(batch, name)) for batch in batches])
    return vectors


def _require_finite_params(params: Mapping[str, Any]) -> None:
    for name, value in flatten_params(params).items():
        if not np.isfinite(value).all():
            raise MaxsearchError(
                f"parameter {name} holds a value that is not finite, so the run cannot be exported: "
                "choose an earlier step"
            )


def _require_same(encoder: EmbeddingModel, reloaded: EmbeddingModel, out: Path) -> None:
    remedy = f"nothing was written to {out}; export with the version of maxsearch that trained the run"
    if reloaded.fingerprint != encoder.fingerprint:
        raise MaxsearchError(
            f"the exported model reads back as model {reloaded.fingerprint[:12]}, "
            f"not {encoder.fingerprint[:12]}: {remedy}"
        )
    expected, found = probe_vectors(encoder), probe_vectors(reloaded)
    for name, vectors in expected.items():
        if not np.isfinite(vectors).all():
            raise MaxsearchError(
                f"the model gives {name} vectors that are not finite: choose an earlier step of the run"
            )
        difference = np.abs(found[name] - vectors).max() if found[name].shape == vectors.shape else np.inf
        if not difference <= TOLERANCE:  # also true of NaN
            raise MaxsearchError(
                f"the exported model does not give the run's {name} vectors (they differ by up to {difference:.2g}): "
                f"{remedy}"
            )

"""A run or an exported model as the `mteb` package calls its models, so that its tasks can be run on it.

    import mteb
    from maxsearch.evaluation.mteb import MtebModel

    print(mteb.evaluate(MtebModel("model"), mteb.get_task("...")))

Neither `mteb` nor torch is needed to import this: a batch is a dict of lists, and vectors are NumPy's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from maxsearch.data.images import fit_image
from maxsearch.data.records import Product
from maxsearch.encode import Encoder
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.manifest import MANIFEST

Vectors = Float32[np.ndarray, "N D"]


class MtebModel:
    """What mteb 2 calls an encoder.

    Texts that are not documents are embedded as queries. Documents, and whatever has a picture, are embedded as
    products, with the text for their title.

    Args:
      model_name: the folder of an exported model or of a run.
      revision: of the results' name; the model's fingerprint when None.
      device: as mteb gives it; the devices are JAX's to choose.
      encoder: the `Encoder`, where it is loaded already; `model_name` is then not read.

    Raises:
      MaxsearchError: no model and no run is there, or it cannot be read.
    """

    def __init__(
        self,
        model_name: str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        encoder: Any = None,
        **_: Any,
    ) -> None:
        folder = Path(model_name)
        if encoder is None:
            encoder = Encoder.from_model(folder) if (folder / MANIFEST).is_file() else Encoder.from_run(folder)
        self.model, self._revision = encoder, revision

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> Vectors:
        """Unit vectors of all inputs, in order.

        Args:
          inputs: batches: "text" holds strings, "image" Pillow's pictures; one of them may lack.
          prompt_type: "query", "document", or None where a task knows no such difference.

        Raises:
          UsageError: a batch holds neither, such as one of sounds.
        """
        document = getattr(prompt_type, "value", prompt_type) == "document"
        vectors = [self._batch(batch, document) for batch in inputs]
        return np.concatenate(vectors) if vectors else np.zeros((0, self.model.dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Inner products of every one with every other; arrays or tensors, of one vector or of several."""
        first, second = (np.atleast_2d(np.asarray(x, np.float32)) for x in (embeddings1, embeddings2))
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Float32[np.ndarray, " N"]:
        """Inner products of the first with the first, the second with the second, and so on."""
        first, second = (np.atleast_2d(np.asarray(x, np.float32)) for x in (embeddings1, embeddings2))
        products: np.ndarray = np.einsum("nd,nd->n", first, second)
        return products

    @cached_property
    def mteb_model_meta(self) -> Any:
        """mteb's ModelMeta of this model.

        Raises:
          MaxsearchError: mteb is not installed.
        """
        try:
            from mteb.models.model_meta import ModelMeta
        except ImportError:
            raise MaxsearchError("mteb is not installed here: pip install 'mteb>=2,<3'") from None
        return ModelMeta(**self.facts())

    def facts(self) -> dict[str, Any]:
        """The fields of ModelMeta; None where a model cannot know."""
        config = self.model.config
        leaves = jax.tree.leaves(self.model.params)
        unknown = (
            "loader",
            "languages",
            "license",
            "open_weights",
            "public_training_code",
            "public_training_data",
            "release_date",
            "training_datasets",
        )
        return {
            **dict.fromkeys(unknown),
            "name": f"maxsearch/{re.sub(r'[^A-Za-z0-9._-]+', '-', config.name)}",
            "revision": self._revision or self.model.fingerprint[:12],
            "n_parameters": sum(leaf.size for leaf in leaves),
            "memory_usage_mb": sum(leaf.nbytes for leaf in leaves) / 2**20,
            "max_tokens": config.model.title.max_tokens,
            "embed_dim": self.model.dim,
            "framework": ["JAX"],
            "similarity_fn_name": "cosine",
            "use_instructions": False,
            "modalities": ["text", "image"],
        }

    def _batch(self, batch: Mapping[str, Any], document: bool) -> Vectors:
        texts, images = batch.get("text"), batch.get("image")
        if texts is None and images is None:
            raise UsageError(
                f"a batch of the task holds {', '.join(batch) or 'nothing'} and neither text nor image: "
                "maxsearch embeds texts and images only"
            )
        if images is None and not document:
            return self.model.encode_queries(list(map(str, texts or ())))
        count = len(texts if images is None else images)  # type: ignore[arg-type]
        texts, images = texts or [""] * count, images or [None] * count
        products = self._products(texts, images)
        return np.concatenate([part.p for part in self.model.encode_products(products, min(256, count))])

    def _products(self, texts: Sequence[str], images: Sequence[Any]) -> Iterable[Product]:
        for row, (text, image) in enumerate(zip(texts, images, strict=True)):
            shown = () if image is None else (fit_image(_encoded(image), self.model.image_edge),)
            yield Product(str(row), " ".join(str(text).split()), shown)


def _encoded(image: Any) -> bytes:
    """A Pillow picture as bytes."""
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()

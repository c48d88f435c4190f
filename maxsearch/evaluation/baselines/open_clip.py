"""Any open_clip model that the user has: its text tower for queries and titles, its image tower for pictures."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from PIL import Image

from maxsearch.data.records import Product
from maxsearch.data.tables.formats import first_line
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.baselines.lexical import full_text
from maxsearch.evaluation.baselines.optional import optional_module
from maxsearch.evaluation.rankers import Task, VectorRanking
from maxsearch.evaluation.retrieval import Ranking

BATCH = 64


class OpenClip:
    """Ranks by cosine with the mean of a product's unit vectors: of its texts, and of its front picture.

    A product that lacks one of the two is ranked by the other. The picture is the one that the catalogue is read with,
    so no larger than the evaluated model's. Runs on a CUDA device where torch has one.

    Args:
      architecture: one of open_clip's names, such as "ViT-B-32".
      weights: a checkpoint file, or one of open_clip's pretrained tags.
    """

    def __init__(self, architecture: str, weights: str) -> None:
        self.name = f"open_clip {architecture}"
        self._architecture, self._weights = architecture, weights

    def start(self, task: Task) -> None:
        """As `Ranker`.

        Raises:
          MaxsearchError: a package, the architecture or the weights are not there.
        """
        spec = f"open_clip:{self._architecture}:{self._weights}"
        package = optional_module("open_clip", "open_clip_torch", spec)
        self._torch = optional_module("torch", "torch", spec)
        if self._architecture not in package.list_models():
            raise MaxsearchError(
                f"--baseline {spec}: open_clip has no architecture {self._architecture!r}; "
                "choose one of open_clip.list_models()"
            )
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        try:
            self._model, _, self._picture = package.create_model_and_transforms(
                self._architecture, pretrained=self._weights, device=self._device
            )
            self._tokenizer = package.get_tokenizer(self._architecture)
        except Exception as error:
            raise MaxsearchError(
                f"--baseline {spec} cannot be loaded ({first_line(error)[:200]}): "
                "give a checkpoint file of that architecture, or one of its pretrained tags"
            ) from None
        self._model.eval()
        self._vectors = VectorRanking(task, self._texts(task.queries))

    def add(self, products: Sequence[Product]) -> None:
        """As `Ranker`."""
        texts = self._texts([full_text(product) for product in products])
        vectors = texts + self._encoded([p.image for p in products], self._pixels, self._model.encode_image)
        self._vectors.add([product.product_id for product in products], _unit(vectors))

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return self._vectors.ranking()

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        return self._vectors.scores(pairs)

    def _texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        return self._encoded(texts, self._tokenizer, self._model.encode_text)

    def _pixels(self, pictures: Sequence[bytes]) -> Any:
        return self._torch.stack([self._picture(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures])

    def _encoded(
        self, items: Sequence[str | bytes | None], prepared: Callable[[Any], Any], encode: Callable[[Any], Any]
    ) -> Float32[np.ndarray, "n D"]:
        """Unit vectors, and 0 for items that are absent or empty; of width 1 when all are."""
        there = [row for row, item in enumerate(items) if item]
        vectors = np.zeros((len(items), 1), np.float32)
        for part in (there[start : start + BATCH] for start in range(0, len(there), BATCH)):
            with self._torch.inference_mode():
                found = encode(prepared([items[row] for row in part]).to(self._device)).float().cpu().numpy()
            if vectors.shape[1] != found.shape[1]:
                vectors = np.zeros((len(items), found.shape[1]), np.float32)
            vectors[part] = _unit(found)
        return vectors


def _unit(vectors: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))

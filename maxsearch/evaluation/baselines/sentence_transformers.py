"""Any sentence-transformers model that the user has, on the products' texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from maxsearch.data.records import Product
from maxsearch.data.tables.formats import first_line
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.baselines.lexical import full_text
from maxsearch.evaluation.baselines.optional import optional_module
from maxsearch.evaluation.rankers import Task, VectorRanking
from maxsearch.evaluation.retrieval import Ranking

BATCH = 64


class SentenceTransformers:
    """Ranks by a model's vectors of queries, and of titles with the further texts behind them.

    The model's own prompts for queries and documents are used where it has them (E5's and BGE's do), and cosines rank
    unless the model says that it was trained for dot products. It runs where sentence-transformers puts it.

    Args:
      path: the model's folder, or a name that sentence-transformers can load.
    """

    def __init__(self, path: str) -> None:
        self.name = f"st {Path(path).name}"
        self._path = path

    def start(self, task: Task) -> None:
        """As `Ranker`.

        Raises:
          MaxsearchError: the package or the model is not there.
        """
        package = optional_module("sentence_transformers", "sentence-transformers", f"st:{self._path}")
        try:
            self._model = package.SentenceTransformer(self._path)
        except Exception as error:
            raise MaxsearchError(
                f"--baseline st:{self._path} cannot be loaded ({first_line(error)[:200]}): "
                "give the folder of a sentence-transformers model, or the name of one that can be fetched"
            ) from None
        self._options = {
            "batch_size": BATCH,
            "show_progress_bar": False,
            "convert_to_numpy": True,
            "normalize_embeddings": self._model.similarity_fn_name != "dot",
        }
        self._vectors = VectorRanking(task, _float32(self._model.encode_query(list(task.queries), **self._options)))

    def add(self, products: Sequence[Product]) -> None:
        """As `Ranker`."""
        texts = [full_text(product) for product in products]
        vectors = _float32(self._model.encode_document(texts, **self._options))
        self._vectors.add([product.product_id for product in products], vectors)

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return self._vectors.ranking()

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        return self._vectors.scores(pairs)


def _float32(vectors: np.ndarray) -> Float32[np.ndarray, "n D"]:
    return np.ascontiguousarray(vectors, np.float32)

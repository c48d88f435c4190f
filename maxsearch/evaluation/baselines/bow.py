"""A two-tower of bags of words, trained on the clicks of prepared data: the simple text model to beat.

Each tower sums an embedding per word, from a table of its own, and scales the sum to length 1; a product is its title
with the further texts behind. The loss is the softmax of the cosines, times a learned scale, over the other products of
the batch and over its other queries (InfoNCE, arXiv 1807.03748, both ways as in CLIP, arXiv 2103.00020); a pair whose
query or product is that of another is no negative of it. Clicks are drawn in proportion to their weights. Runs on one
device.

Letters: B pairs of a batch, L words of a text, V words of the vocabulary, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int, Int32

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.baselines.lexical import full_text
from maxsearch.evaluation.baselines.words import Vocabulary
from maxsearch.evaluation.rankers import Task, VectorRanking
from maxsearch.evaluation.retrieval import Ranking

WIDTH = 128
LENGTH = 32  # words of a text; further ones are left out
BATCH = 1024
EPOCHS = 6
FEWEST_STEPS, MOST_STEPS = 100, 2000  # the most takes about a minute on two CPU cores
LEARNING_RATE = 3e-3
SCALE = 14.0  # of the cosines when training starts: CLIP's 1/0.07

Params = dict[str, jax.Array]


@dataclass(frozen=True)
class Clicks:
    """Training data as word numbers; -1 fills up.

    Attributes:
      queries, titles: the words of each distinct query and of each product.
      query, product: row in them of each click.
      weight: of each click.
    """

    queries: Int32[np.ndarray, "q L"]
    titles: Int32[np.ndarray, "p L"]
    query: Int32[np.ndarray, " n"]
    product: Int32[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]


class BagOfWords:
    """Ranks by the towers, which `start` trains.

    Args:
      data: a folder of `maxsearch prepare`.
      seed: of the first embeddings and of the drawn clicks.
    """

    def __init__(self, data: Path, *, seed: int = 0) -> None:
        self.name = "bag of words"
        self._data, self._seed = data, seed

    def start(self, task: Task) -> None:
        """As `Ranker`; trains.

        Raises:
          MaxsearchError: the data cannot be read, or have no words.
        """
        self._vocabulary = Vocabulary()
        clicks = _read(self._data, self._vocabulary)
        if not len(self._vocabulary):
            raise MaxsearchError(
                f"the queries and titles of {self._data} have no words: name data with text after bow:"
            )
        self._params = train(clicks, len(self._vocabulary), seed=self._seed)
        self._vectors = VectorRanking(task, self._embedded("query", task.queries))

    def add(self, products: Sequence[Product]) -> None:
        """As `Ranker`."""
        vectors = self._embedded("title", [full_text(product) for product in products])
        self._vectors.add([product.product_id for product in products], vectors)

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return self._vectors.ranking()

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        return self._vectors.scores(pairs)

    def _embedded(self, tower: str, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        for start in range(0, len(texts), BATCH):
            rows = _rows(self._vocabulary, texts[start : start + BATCH], grow=False)
            # Filled up to a whole batch: one shape compiles once.
            filled = np.pad(rows, ((0, BATCH - len(rows)), (0, 0)), constant_values=-1)
            vectors[start : start + BATCH] = _embed(self._params[tower], filled)[: len(rows)]
        return vectors


def train(clicks: Clicks, words: int, *, seed: int = 0) -> Params:
    """Trains the two tables of embeddings.

    Args:
      clicks: at least one.
      words: size of the vocabulary.
      seed: equal seeds give equal tables on one machine.

    Returns:
      "query" and "title" tables of shape (words, WIDTH), and the log of the "scale".
    """
    n = len(clicks.weight)
    B, steps = min(BATCH, n), int(np.clip(EPOCHS * n // BATCH, FEWEST_STEPS, MOST_STEPS))
    first, second = jax.random.split(jax.random.key(seed))
    params = {
        "query": jax.random.normal(first, (words, WIDTH)) / WIDTH**0.5,
        "title": jax.random.normal(second, (words, WIDTH)) / WIDTH**0.5,
        "scale": jnp.log(SCALE),
    }
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: optax.OptState, batch: dict[str, jax.Array]) -> tuple[Params, optax.OptState]:
        updates, state = optimizer.update(jax.grad(_loss)(params, batch), state)
        moved: Params = optax.apply_updates(params, updates)
        return moved, state

    rng = np.random.default_rng(seed)
    likely = np.cumsum(clicks.weight) / clicks.weight.sum()
    for _ in range(steps):
        drawn = np.minimum(np.searchsorted(likely, rng.random(B), side="right"), n - 1)
        query, product = clicks.query[drawn], clicks.product[drawn]
        batch = {"query": query, "product": product, "words": clicks.queries[query], "title": clicks.titles[product]}
        params, state = step(params, state, batch)
    return params


def _loss(params: Params, batch: dict[str, jax.Array]) -> Float[Array, ""]:
    query, title = _embed(params["query"], batch["words"]), _embed(params["title"], batch["title"])
    scores = query @ title.T * jnp.exp(params["scale"])
    alike = (batch["query"][:, None] == batch["query"]) | (batch["product"][:, None] == batch["product"])
    scores = jnp.where(alike & ~jnp.eye(len(scores), dtype=bool), -jnp.inf, scores)
    both = jax.nn.logsumexp(scores, axis=0) + jax.nn.logsumexp(scores, axis=1) - 2 * jnp.diagonal(scores)
    return both.mean() / 2


@jax.jit
def _embed(table: Float[Array, "V D"], words: Int32[Array, "n L"] | Int32[np.ndarray, "n L"]) -> Float[Array, "n D"]:
    """The unit vector of each text; 0 for one without known words."""
    vectors = jnp.where((words >= 0)[..., None], table[words], 0).sum(axis=1)
    # Away from 0, where the norm has no gradient.
    return vectors / jnp.sqrt(jnp.maximum(jnp.square(vectors).sum(axis=1, keepdims=True), 1e-12))


def _read(data: Path, vocabulary: Vocabulary) -> Clicks:
    dataset = PreparedDataset.open(data)
    titles = _rows(vocabulary, [full_text(product) for product in dataset.products])
    numbers: dict[str, int] = {}
    rows = [(numbers.setdefault(c.query, len(numbers)), c.product, c.weight) for c in dataset.interactions]
    query, product, weight = (np.array(column) for column in zip(*rows, strict=True))
    return Clicks(
        queries=_rows(vocabulary, list(numbers)),
        titles=titles,
        query=query.astype(np.int32),
        product=product.astype(np.int32),
        weight=weight,
    )


def _rows(vocabulary: Vocabulary, texts: Sequence[str], *, grow: bool = True) -> Int32[np.ndarray, "n L"]:
    rows = np.full((len(texts), LENGTH), -1, np.int32)
    for row, words in zip(rows, vocabulary.numbers(texts, grow=grow), strict=True):
        row[: len(words)] = words[:LENGTH]
    return rows

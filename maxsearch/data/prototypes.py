"""Category prototypes that tell which pictures do not fit their product's category and title (after CAPro).

CAPro is arXiv 2310.09761. Marks as in docs/methods.md:

- code: prototypes that come from text judge the pictures; a label is kept where the softmax over the prototypes gives
  it 1/C or more, and replaced where another category gets 0.6 or more; prototypes follow the kept pictures by an
  exponential moving average of 0.999.
- ours: titles and pictures are vectors of one trained space, each centred on its own mean, because all pictures lie
  apart from all titles; the average is taken at once, as its expectation over every order of the rows, so that their
  order decides nothing; a product's own category is represented half by its prototype and half by the product's own
  title, so that a blue shoe shown for a red one counts too; a label is only replaced where the title is nearest to the
  new one as well, for otherwise the picture is at fault; clusters of titles where the catalogue names no categories;
  the softmax's scale.

Letters: N products, C categories, E vector size.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

RELABEL = 0.6
MOMENTUM = 0.999
SCALE = 10.0
OWN_TITLE = 0.5
ROUNDS = 3
BLOCK = 8192  # rows whose scores for all categories are held at a time
MOST_CLUSTERS = 512
CLUSTER_ROUNDS = 15
ROWS_PER_CLUSTER = 256  # more titles than this do not move a centre


@dataclass(frozen=True)
class Verdicts:
    """What the pictures say about their products.

    Attributes:
      own: the share, 0 to 1, that a picture gives to its product's own category.
      best: the category with the largest share.
      best_share: that share.
      mismatch: whether `own` is below 1/C.
      mislabelled: whether in a mismatch the category is at fault, and `best` may replace it: its share is 0.6 or more,
        and the title is nearest to the same category.
    """

    own: Float[np.ndarray, " N"]
    best: Int[np.ndarray, " N"]
    best_share: Float[np.ndarray, " N"]
    mismatch: Bool[np.ndarray, " N"]
    mislabelled: Bool[np.ndarray, " N"]


def judge(
    title: Float[np.ndarray, "N E"], image: Float[np.ndarray, "N E"], category: Int[np.ndarray, " N"], categories: int
) -> Verdicts:
    """Judges every picture against prototypes of all categories.

    Args:
      title: title vectors.
      image: image vectors of the same products, in the same space.
      category: each product's category, 0 to C - 1; every category has a product.
      categories: C, 2 or more.
    """
    title, image = centred(title), centred(image)
    from_titles = unit(sums_of(title, category, categories))
    prototypes = from_titles
    for _ in range(ROUNDS):
        kept = _scores(title, image, category, prototypes)[0] >= 1 / categories
        prototypes = moved(from_titles, image[kept], category[kept])
    own, best, best_share = _scores(title, image, category, prototypes)
    mismatch = own < 1 / categories
    mislabelled = mismatch & (best_share >= RELABEL) & (_nearest(title, from_titles)[0] == best)
    return Verdicts(own, best, best_share, mismatch, mislabelled)


def agreement(title: Float[np.ndarray, "N E"], image: Float[np.ndarray, "N E"]) -> float:
    """Mean cosine of a product's centred title and image vectors; about 0 where a model relates nothing to nothing."""
    return float(np.einsum("ne,ne->n", centred(title), centred(image)).mean(dtype=np.float64))


def moved(
    prototypes: Float[np.ndarray, "C E"], image: Float[np.ndarray, "n E"], category: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "C E"]:
    """Unit prototypes after an exponential moving average over the n kept pictures of their categories.

    After n steps an average of momentum m holds m^n of its start; the pictures share the rest, equally in the
    expectation over their orders (ours).
    """
    counts = np.bincount(category, minlength=len(prototypes))[:, None]
    stays = MOMENTUM**counts
    mean = sums_of(image, category, len(prototypes)) / np.maximum(counts, 1)
    return unit(stays * prototypes + (1 - stays) * mean)


def clusters(
    title: Float[np.ndarray, "N E"], seed: int = 0
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " clusters"]]:
    """Spherical k-means of centred title vectors into about 3 sqrt(N) clusters, 512 at most (ours).

    Returns:
      each product's cluster, and for each cluster the product whose title is nearest to its centre.
    """
    title = centred(title)
    wanted = min(MOST_CLUSTERS, max(2, round(3 * len(title) ** 0.5)), len(title))
    order = np.random.default_rng(seed).permutation(len(title))
    sample = title[order[: ROWS_PER_CLUSTER * wanted]]
    centres = sample[:wanted]
    for _ in range(CLUSTER_ROUNDS):
        sums = sums_of(sample, _nearest(sample, centres)[0], wanted)
        centres = np.where(np.any(sums, axis=1, keepdims=True), unit(sums), centres)
    nearest, cosine = _nearest(title, centres)
    used, cluster = np.unique(nearest, return_inverse=True)
    order = np.lexsort((-cosine, cluster))
    return cluster, order[np.searchsorted(cluster[order], np.arange(len(used)))]


def centred(vectors: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """Unit vectors of the differences from the mean."""
    return unit(vectors - vectors.mean(0, dtype=np.float64).astype(vectors.dtype))


def unit(vectors: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """The vectors at length 1; a vector of zeros stays one."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def sums_of(
    vectors: Float[np.ndarray, "n E"], category: Int[np.ndarray, " n"], categories: int
) -> Float[np.ndarray, "C E"]:
    """The sum of each category's vectors, in float64."""
    sums = np.zeros((categories, vectors.shape[1]))
    np.add.at(sums, category, vectors)
    return sums


def _scores(
    title: np.ndarray, image: np.ndarray, category: np.ndarray, prototypes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share of the own category, the best category and its share, [N] each."""
    own, best, best_share = (
        np.empty(len(image), np.float32),
        np.empty(len(image), int),
        np.empty(len(image), np.float32),
    )
    for start in range(0, len(image), BLOCK):
        part = slice(start, start + BLOCK)
        of, rows = category[part], np.arange(len(category[part]))
        logits = SCALE * image[part] @ prototypes.T
        mine = unit((1 - OWN_TITLE) * prototypes[of] + OWN_TITLE * title[part])
        logits[rows, of] = SCALE * np.einsum("ne,ne->n", image[part], mine)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best[part] = shares.argmax(1)
        own[part], best_share[part] = shares[rows, of], shares.max(1)
    return own, best, best_share


def _nearest(vectors: np.ndarray, prototypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest prototype of each vector, and its cosine, [N] each."""
    index, cosine = np.empty(len(vectors), int), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        part = slice(start, start + BLOCK)
        cosines = vectors[part] @ prototypes.T
        index[part], cosine[part] = cosines.argmax(1), cosines.max(1)
    return index, cosine

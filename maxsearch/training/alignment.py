"""How the aligner's map is found before it trains: from the clouds of patches and of words alone, without pairs.

AlignCMSS, stages A and B (arXiv 2309.16141). said: alignment uses that co-occurrence structure is consistent between
vision and language, without labels. ours: everything here. A matches the two clouds by their inner distances
(Gromov-Wasserstein; Peyre et al. 2016) and then turns one onto the other (Wasserstein-Procrustes; Grave et al. 2019); B
refines by mutual nearest neighbours under CSLS and Procrustes (Conneau et al. 2018).

A cloud of patches and a cloud of words have little structure in common, also after the encoders were trained on the
domain: on real data the start names few things right, while clouds that are turns of one another are found exactly.

n patches, K words, I and D their widths.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from maxsearch.errors import UsageError
from maxsearch.mesh import gathered

POINTS = 256  # of each cloud in stage A
PATCHES = 4096
MOST_WORDS = 1024
NEIGHBOURS = 10
ROUNDS = 5
CLUSTER_ROUNDS = 10
TURNS = 12
ENTROPIES = (0.1, 0.05, 0.02)


def start_map(
    patches: Float[np.ndarray, "n I"], words: Float[np.ndarray, "K D"], kind: str, seed: int
) -> Float[np.ndarray, "I D"]:
    """A semi-orthogonal map W, such that the directions of (patches - mean) W lie where those of (words - mean) do.

    Args:
      patches: features of patches from many pictures.
      words: vectors of the most frequent words, the most frequent first.
      kind: `unsupervised` (stage A) or `refined` (A, then B).
      seed: equal seeds give equal maps.

    Raises:
      UsageError: fewer than 2 patches or words.
    """
    if min(len(patches), len(words)) < 2:
        raise UsageError(
            f"the aligner's start needs at least 2 patches and 2 words, not {len(patches)} and {len(words)}: train on "
            "more products, or leave the stage's start empty"
        )
    x, y = directions(patches), directions(words)
    points, mass = clustered(x, POINTS, seed)
    found = matched_clouds(points, mass, y[:POINTS])
    return refined(found, x, y) if kind == "refined" else found


def directions(x: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    """Unit vectors of the centred rows."""
    x = np.asarray(x, np.float64)
    x = x - x.mean(axis=0)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def clustered(
    x: Float[np.ndarray, "n D"], most: int, seed: int
) -> tuple[Float[np.ndarray, "k D"], Float[np.ndarray, " k"]]:
    """At most `most` centres of unit vectors by spherical k-means, and the share of the points that each stands for."""
    if len(x) <= most:
        return x, np.full(len(x), 1 / len(x))
    centres = x[np.random.default_rng(seed).choice(len(x), most, replace=False)]
    for _ in range(CLUSTER_ROUNDS):
        belongs = np.eye(most)[(x @ centres.T).argmax(axis=1)]
        counts = belongs.sum(axis=0)
        # A centre that lost all of its points stays where it was, and counts for nothing in the end.
        sums = np.where(counts[:, None] > 0, belongs.T @ x, centres)
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return centres[counts > 0], counts[counts > 0] / len(x)


def procrustes(cross: Float[np.ndarray, "I D"]) -> Float[np.ndarray, "I D"]:
    """The semi-orthogonal W that maximises <W, cross>: U V' of its singular value decomposition."""
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    return left @ right


def sinkhorn(
    scores: Float[np.ndarray, "n K"],
    rows: Float[np.ndarray, " n"],
    columns: Float[np.ndarray, " K"],
    iterations: int = 30,
) -> Float[np.ndarray, "n K"]:
    """The plan exp(scores + f + g) with these marginals (Cuturi 2013), in the log domain."""
    g = np.zeros(len(columns))
    for _ in range(iterations):
        f = np.log(rows) - log_sum(scores + g, 1)
        g = np.log(columns) - log_sum(scores + f[:, None], 0)
    return np.exp(scores + f[:, None] + g)


def log_sum(x: Float[np.ndarray, "n K"], axis: int) -> Float[np.ndarray, " m"]:
    """log sum exp along an axis."""
    top = x.max(axis=axis, keepdims=True)
    return (np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top).squeeze(axis)


def matched_clouds(
    x: Float[np.ndarray, "n I"], mass: Float[np.ndarray, " n"], y: Float[np.ndarray, "K D"]
) -> Float[np.ndarray, "I D"]:
    """Stage A: the map that turns cloud x onto cloud y.

    It begins with the plan that pairs points whose sorted cosines to their own cloud are alike (Memoli 2011, third
    lower bound), follows entropic Gromov-Wasserstein from there, and ends with turns of optimal transport and
    Procrustes, each sharper than the last.

    Args:
      x: unit vectors.
      mass: their weights, which sum to 1.
      y: unit vectors, of equal weight.
    """
    share = np.full(len(y), 1 / len(y))
    cx, cy = x @ x.T, y @ y.T
    levels = (np.arange(64) + 0.5) / 64
    px, py = np.quantile(cx, levels, axis=1).T, np.quantile(cy, levels, axis=1).T
    apart = np.square(px[:, None] - py[None]).sum(axis=2)
    plan = sinkhorn(-apart / (ENTROPIES[0] * apart.mean() + 1e-12), mass, share)
    for entropy in ENTROPIES:
        for _ in range(TURNS):
            gain = cx @ plan @ cy
            gain = 2 * gain - np.square(cx) @ mass[:, None] - (np.square(cy) @ share)[None]
            plan = sinkhorn(gain / (entropy * (gain.std() + 1e-12)), mass, share)
    found = procrustes(x.T @ plan @ y)
    for entropy in ENTROPIES:
        for _ in range(TURNS):
            found = procrustes(x.T @ sinkhorn(x @ found @ y.T / entropy, mass, share) @ y)
    return found


def csls(cosines: Float[np.ndarray, "n K"], neighbours: int) -> Float[np.ndarray, "n K"]:
    """2 cos - r_x - r_y, r the mean cosine to the nearest neighbours on the other side (Conneau et al. 2018).

    It takes from the hubs, which are near to everything.
    """
    k = min(neighbours, *cosines.shape)
    near_x = np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)
    near_y = np.partition(cosines, -k, axis=0)[-k:].mean(axis=0)
    return 2 * cosines - near_x[:, None] - near_y[None]


def refined(
    found: Float[np.ndarray, "I D"], x: Float[np.ndarray, "n I"], y: Float[np.ndarray, "K D"]
) -> Float[np.ndarray, "I D"]:
    """Stage B: five rounds of Procrustes on the mutual nearest neighbours under CSLS.

    Args:
      found: the map to begin with.
      x, y: unit vectors.
    """
    for _ in range(ROUNDS):
        mapped = x @ found
        mapped /= np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-9)
        scores = csls(mapped @ y.T, NEIGHBOURS)
        words, patches = scores.argmax(axis=1), scores.argmax(axis=0)
        mutual = np.flatnonzero(patches[words] == np.arange(len(x)))
        found = procrustes(x[mutual].T @ y[words[mutual]])
    return found


def aligned_params(
    params: Any, graph: Any, batches: Iterable[Mapping[str, Array]], kind: str, seed: int
) -> dict[str, Any]:
    """The parameters with the aligner's map found from the patches and words of these parameters.

    The map is brought to the scale and the place of the words, so that cosines with the words as they are make sense.

    Args:
      params: nested dicts of parameters.
      graph: the model's structure, with its keywords.
      batches: of the stream, on the mesh; as many are taken as 4,096 patches need.
      kind: see `start_map`.
      seed: see `start_map`.

    Raises:
      UsageError: the model has no aligner or no keywords, or the batches no pictures.
    """
    if nnx.merge(graph, params).aligner is None:
        raise UsageError("a stage has a start and the model no aligner: give a stage a weight for align_bag")
    patches, words = collected(params, graph, batches, seed)
    found = start_map(patches, words, kind, seed)
    places = patches.mean(axis=0), words.mean(axis=0)
    spread = [
        np.sqrt(np.square(x - place).sum(axis=1).mean()) for x, place in zip((patches, words), places, strict=True)
    ]
    kernel = found * (spread[1] / max(spread[0], 1e-9))
    project = {"kernel": kernel.astype(np.float32), "bias": (places[1] - places[0] @ kernel).astype(np.float32)}
    return {**params, "aligner": {**params["aligner"], "project": project}}


def collected(
    params: Any, graph: Any, batches: Iterable[Mapping[str, Array]], seed: int
) -> tuple[Float[np.ndarray, "n I"], Float[np.ndarray, "K D"]]:
    """Up to 4,096 patches, drawn evenly from the batches' pictures, and the vectors of the first 1,024 keywords."""
    words = jax.jit(lambda params: vocabulary(nnx.merge(graph, params)))(params)
    read = jax.jit(lambda params, batch: pictured(nnx.merge(graph, params), batch))
    rng, parts, count = np.random.default_rng(seed), [], 0
    for batch in batches:
        states, mask = (np.asarray(x) for x in read(params, dict(batch)))
        rows = np.argwhere(mask)
        # Few of each picture, so that many pictures have a say.
        rows = rows[rng.permutation(len(rows))[: max(len(mask), PATCHES // 8)]]
        parts.append(states[rows[:, 0], rows[:, 1]])
        count += len(rows)
        if count >= PATCHES:
            break
    if not count:
        raise UsageError("the aligner's start found no picture in the data: leave the stage's start empty")
    return np.concatenate(parts)[:PATCHES].astype(np.float64), np.asarray(words, np.float64)[:MOST_WORDS]


def vocabulary(model: Any) -> Float[Array, "K D"]:
    """The vectors of the model's keywords."""
    encode: Callable[..., Array] = model.title_encoder
    return model.aligner.vocabulary(encode)


def pictured(model: Any, batch: Mapping[str, Array]) -> tuple[Float[Array, "B P I"], Bool[Array, "B P"]]:
    """Patch states of a batch and which are of real pictures, whole on every device."""
    tokens = model.product_tokens(
        batch["title_ids"], batch["title_mask"], batch["image"], batch["image_present"]
    ).patches
    mask = tokens.mask & batch["image_present"].any(axis=1)[:, None]
    return gathered(tokens.states.astype("float32"), None, None, None), gathered(mask, None, None)

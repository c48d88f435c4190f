"""Guided query refinement: the query vector is moved, at search time, towards what a second retriever says.

Uzan et al., "Guided Query Refinement" (arXiv 2510.05038), for page images as many vectors, with a text retriever as
guide. Said there: the candidates are the union of both retrievers' best; over them p1 is the softmax of the first one's
scores for the vector z, and p2 that of the guide's; a few gradient steps on z lower KL(m || p1) with m the mean of p1
and p2, no encoder being touched; then the candidates are scored with the new z. Their code keeps m as it was at the
start, weighs p2 by a share, and divides both scores by a temperature.

Ours: BM25 as guide, its scores scaled to 0..1 before the softmax, with a temperature of its own; plain gradient
descent with the gradient in closed form, X^T (p1 - m) / t, so that NumPy does it without a framework; and z kept of
length 1, so that refined scores are cosines as well.

Letters: C candidates, D vector size.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from maxsearch.errors import UsageError
from maxsearch.serving.hybrid.fuse import scaled


@dataclass(frozen=True)
class RefineSettings:
    """How far a query is moved. The defaults are what did best in docs/hybrid.md; larger steps did harm there.

    Attributes:
      steps: of gradient descent.
      rate: size of a step.
      share: of the guide in the mixture m, from 0 (the query stays) to 1.
      temperature: of the first retriever's cosines.
      guide_temperature: of the guide's scaled scores.
    """

    steps: int = 10
    rate: float = 0.002
    share: float = 0.25
    temperature: float = 0.05
    guide_temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 0 or self.rate <= 0 or not 0 <= self.share <= 1:
            raise UsageError("a refinement needs steps of at least 0, a rate above 0 and a share from 0 to 1")
        if self.temperature <= 0 or self.guide_temperature <= 0:
            raise UsageError("a refinement needs temperatures above 0")


def refine(
    query: Float32[np.ndarray, " D"],
    candidates: Float32[np.ndarray, "C D"],
    guide: Float64[np.ndarray, " C"],
    settings: RefineSettings,
) -> Float32[np.ndarray, " D"]:
    """The query moved towards the guide's candidates.

    Args:
      query: a unit vector.
      candidates: unit vectors of the candidates.
      guide: the guide's score of each, 0 or more; where it tells none apart the query stays as it is.
      settings: how far.

    Returns:
      a unit vector.
    """
    if not len(guide) or guide.max() <= guide.min():
        return query
    z, vectors = query.astype(np.float64), candidates.astype(np.float64)
    told = softmax(scaled(guide, 0.0) / settings.guide_temperature)
    mixture = (1 - settings.share) * softmax(vectors @ z / settings.temperature) + settings.share * told
    for _ in range(settings.steps):
        gradient = vectors.T @ (softmax(vectors @ z / settings.temperature) - mixture) / settings.temperature
        z = z - settings.rate * gradient
        z /= max(float(np.linalg.norm(z)), 1e-12)
    return z.astype(np.float32)


def divergence(
    query: Float32[np.ndarray, " D"],
    candidates: Float32[np.ndarray, "C D"],
    mixture: Float64[np.ndarray, " C"],
    temperature: float,
) -> float:
    """KL(mixture || p1) of a query: what refining lowers."""
    p = softmax(candidates.astype(np.float64) @ query / temperature)
    return float((mixture * (np.log(mixture) - np.log(p))).sum())


def softmax(logits: Float64[np.ndarray, " C"]) -> Float64[np.ndarray, " C"]:
    """exp(logits) scaled to a sum of 1."""
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()

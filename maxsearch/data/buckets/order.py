"""Which draws make up each batch, so that a batch holds texts of like length.

The draws of a window of batches are sorted into shapes, cut into batches, and the batches shuffled. What is left over
of a shape goes to the next one that holds it. Nothing is drawn more or less often than before, and a batch depends on
its number and the seed alone: any hosts and workers make the same batches, and the stream resumes from one number.

W batches of a window, B examples of a batch.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from maxsearch.data.buckets.lengths import Lengths
from maxsearch.data.buckets.shapes import Shape, choose_shapes, smallest_first, smallest_that_hold
from maxsearch.data.sources import ExampleSource, digest
from maxsearch.errors import UsageError

MOST_SHAPES = 16
LONGEST_WINDOW, SHORTEST_WINDOW = 64, 8  # batches
WINDOW_DRAWS = 2**19
KEPT_PLANS = 2
ORDER = 2  # keeps these random numbers apart from those that the stream and the sources make


@dataclass(frozen=True)
class Plan:
    """The batches of a window.

    Attributes:
      draws: int64 [W, B].
      shapes: int64 [W], the number of each batch's shape.
      tokens: of all texts.
    """

    draws: np.ndarray
    shapes: np.ndarray
    tokens: int


@dataclass
class Buckets:
    """Batches by length, as pure functions of their numbers; thread-safe, and pickled to worker processes.

    Attributes:
      source: where examples come from.
      lengths: the tokens of its texts.
      shapes: that batches are padded to, by rising size; the last holds all others.
      batch_size: B.
      seed: of the order; not negative.
    """

    source: ExampleSource
    lengths: Lengths
    shapes: Sequence[Shape]
    batch_size: int
    seed: int = 0
    _plans: dict[int, Plan] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.shapes = smallest_first(self.shapes, self.lengths.fields)
        self.window = window_of(self.batch_size)
        self.fingerprint = digest(
            "buckets", self.source.fingerprint, [(shape.query, shape.title) for shape in self.shapes], self.window
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})

    def draws(self, batch: int) -> Int64[np.ndarray, " B"]:
        """The draws of a global batch."""
        return self._plan(batch // self.window).draws[batch % self.window]

    def shape(self, batch: int) -> Shape:
        """What a global batch is padded to."""
        return self.shapes[self._plan(batch // self.window).shapes[batch % self.window]]

    def padding(self, window: int) -> float:
        """The share of token places that a window's batches leave empty."""
        plan = self._plan(window)
        places = np.array([shape.places(self.lengths.fields) for shape in self.shapes])[plan.shapes]
        return 1 - plan.tokens / (float(places.sum()) * self.batch_size)

    def _plan(self, window: int) -> Plan:
        with self._lock:
            plan = self._plans.get(window)
            if plan is None:
                plan = self._plans[window] = self._made(window)
                for old in sorted(self._plans, key=lambda other: abs(other - window))[KEPT_PLANS:]:
                    del self._plans[old]
            return plan

    def _made(self, window: int) -> Plan:
        W, B = self.window, self.batch_size
        rng = np.random.Generator(np.random.Philox(key=[self.seed, window], counter=[0, 0, 0, ORDER]))
        draws = np.arange(window * W * B, (window + 1) * W * B, dtype=np.int64)
        tokens = self.lengths.of(self.source.pairs(draws.tolist()))
        _, group = np.unique(self.source.groups(draws.tolist()), return_inverse=True)
        longest = np.zeros((int(group.max()) + 1, 2), np.int64)
        np.maximum.at(longest, group, tokens[:, :2])
        place = smallest_that_hold(self.shapes, longest)[group]
        # Groups in random order, the draws of each side by side in their own order.
        order = np.lexsort((draws, rng.permutation(len(longest))[group]))
        waiting = [draws[order][place[order] == number] for number in range(len(self.shapes))]
        batches: list[np.ndarray] = []
        shapes: list[int] = []
        for number, shape in enumerate(self.shapes):
            whole = len(waiting[number]) // B * B
            batches.append(waiting[number][:whole].reshape(-1, B))
            shapes += [number] * (whole // B)
            rest = waiting[number][whole:]
            if len(rest):
                above = next(n for n in range(number + 1, len(self.shapes)) if self.shapes[n].holds(shape))
                waiting[above] = np.concatenate([rest, waiting[above]])
        shuffled = rng.permutation(W)
        return Plan(
            np.concatenate(batches)[shuffled], np.array(shapes, np.int64)[shuffled], int(tokens[:, [0, 2]].sum())
        )


def window_of(batch_size: int) -> int:
    """W: a long window leaves little over, a short one is sooner sorted."""
    return int(np.clip(WINDOW_DRAWS // batch_size, SHORTEST_WINDOW, LONGEST_WINDOW))


def make_buckets(
    source: ExampleSource,
    lengths: Lengths,
    batch_size: int,
    seed: int,
    *,
    limit: int,
    max_padding: float = 0.0,
    milestones: Sequence[int] = (),
) -> Buckets:
    """Chooses the shapes.

    Args:
      source: where examples come from.
      lengths: the tokens of its texts.
      batch_size: B.
      seed: of the order.
      limit: shapes at most; 0 leaves it to `max_padding`, with at most 16.
      max_padding: the fewest shapes are taken that leave a smaller share of places empty, in every window looked at; 0
        takes as many as `limit` allows.
      milestones: batches at which the source begins to give other examples; looked at beside the first windows.

    Raises:
      UsageError: the share is not to be had.
    """
    window = window_of(batch_size)
    looked = sorted({0, 1, *(batch // window + after for batch in milestones for after in (0, 1))})
    ranges = (range(each * window * batch_size, (each + 1) * window * batch_size) for each in looked)
    sample = np.concatenate([lengths.of(source.pairs(draws)) for draws in ranges])
    shapes = choose_shapes(sample[:, :2], Shape(*lengths.longest), limit or MOST_SHAPES, lengths.fields)
    if not max_padding:
        return Buckets(source, lengths, shapes, batch_size, seed)
    padding: Float64[np.ndarray, " n"] = np.zeros(0)
    for count in range(1, len(shapes) + 1):
        buckets = Buckets(source, lengths, shapes[:count], batch_size, seed)
        padding = np.array([buckets.padding(each) for each in looked])
        if padding.max() < max_padding:
            return buckets
    raise UsageError(
        f"--data.max-padding {max_padding:g} is not to be had: with {len(shapes)} padded lengths up to "
        f"{padding.max():.3f} of the token places stay empty; raise it" + (", or --data.buckets" if limit else "")
    )

"""The contrastive losses without a matrix of all pairs: the right side travels round the ring of devices.

Each device holds its own rows of the left side and, one after the other, every device's rows of the right side, so that
one block of b x b pairs is in memory at a time. A block serves both directions: what the right side's rows learn of the
left travels and comes home with them. Values and gradients are those of losses/contrastive.py, which is the reference.
The schedule is that of ring attention (Liu et al. 2023, arXiv 2310.01889) and of SigLIP's chunked loss (Zhai et al.
2023, section 3.3); streaming several positives against the negatives alone, and both directions at once, are ours.

B global batch, b = B / n rows of one of n devices, E vector size, K vectors in the bank, W keywords.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maxsearch.losses.contrastive import known_pairs
from maxsearch.losses.masks import contained_pairs
from maxsearch.mesh import RULES, spec

AXES = RULES["batch"]
FAR = -1e30

Rows = tuple[Float[Array, " B"], Bool[Array, " B"]]  # the loss of each row, and whether it has one
Heard = tuple[Array, Array, Array]  # of each row's negatives the highest logit and the sum; how many positives it has


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class About:
    """What says which pairs of two sides belong together or do not count.

    Attributes:
      ids: int [B] by each name of `contrastive.IDS`.
      present: bool [B], which rows take part.
      asked: int [B, W], keywords of the rows' queries, where they are queries and keywords hide false negatives.
      covered: bool [B], whether the vocabulary has all of a query's words.
      owned: int [B, W], keywords of the rows' products, where they are products and keywords hide false negatives.
    """

    ids: Mapping[str, Any]  # shard_map lets other things than arrays pass through here
    present: Any
    asked: Any = None
    covered: Any = None
    owned: Any = None


def pairs_of(left: About, right: About, vocabulary: int) -> tuple[Bool[Array, "I J"], Bool[Array, "I J"]]:
    """Which rows of two blocks are positives, and which are negatives, of one another."""
    known = known_pairs(left.ids, right.ids)
    valid = left.present[:, None] & right.present[None, :]
    contained = None
    if left.asked is not None and left.covered is not None and right.owned is not None:
        contained = contained_pairs(left.asked, left.covered, right.owned, vocabulary)
    elif right.asked is not None and right.covered is not None and left.owned is not None:
        contained = contained_pairs(right.asked, right.covered, left.owned, vocabulary).T
    negative = valid & ~known
    return known & valid, negative if contained is None else negative & ~contained


def turned(pairs: tuple[Array, Array]) -> tuple[Array, Array]:
    """The same pairs, seen from the right side."""
    return pairs[0].T, pairs[1].T


def onwards(x: Any) -> Any:
    """What the previous device of the ring holds."""
    n = jax.lax.axis_size(AXES)
    return jax.lax.ppermute(x, AXES, [(place, (place + 1) % n) for place in range(n)])


def round_trip(visit: Callable[[Any, Any, Any], tuple[Any, Any]], own: Any, travellers: Any, luggage: Any) -> Any:
    """Takes every device's travellers past every device, its own first.

    Args:
      visit: (own, travellers, luggage) -> own and luggage as they are after it.
      own: what stays on the device.
      travellers: what it sends round.
      luggage: what its travellers bring home.

    Returns:
      The last `own`, and the luggage, home again.
    """

    def hop(state: tuple[Any, Any, Any], _: None) -> tuple[tuple[Any, Any, Any], None]:
        own, travellers, luggage = state
        own, luggage = visit(own, travellers, luggage)
        # The travellers do not wait for the visit, so that the way and the work overlap.
        return (own, onwards(travellers), onwards(luggage)), None

    hops = jax.lax.axis_size(AXES) - 1
    (own, travellers, luggage), _ = jax.lax.scan(hop, (own, travellers, luggage), None, length=hops)
    own, luggage = visit(own, travellers, luggage)
    return own, onwards(luggage)


def varying(x: Array) -> Array:
    """Marks an array that is the same on all devices as one that will differ."""
    return jax.lax.pcast(x, AXES, to="varying")


def cosines_of(left: Float[Array, "I E"], right: Float[Array, "J E"]) -> Float[Array, "I J"]:
    """Cosines of two blocks of unit vectors."""
    return jnp.einsum("IE,JE->IJ", left, right)


def ring_softmax_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    about: tuple[About, About],
    scale: Float[Array, ""],
    *,
    margin: float = 0.0,
    bank: tuple[Float[Array, "K E"], About] | None = None,
    vocabulary: int = 0,
) -> tuple[Rows, Rows]:
    """`softmax_loss` block by block, in both directions; see there for what it means.

    A streaming log-sum-exp over the negatives goes round first, and each positive is held against it on a second round;
    the backward pass is one round more. A round sends B E numbers, the backward one twice as many.

    Args:
      left, right: unit vectors, split over the batch axes.
      about: of the left and of the right side.
      scale: multiplies the cosines.
      margin: taken off the cosine of a positive.
      bank: further negatives of the left side with what is known of them, split over the batch axes too; what is known
        to belong together counts as no pair.
      vocabulary: size of the vocabulary of keywords.

    Returns:
      The loss of each left row against the right side, and of each right row against the left. Rows without a valid
      positive have none, which is 0.
    """
    further = (None, None) if bank is None else bank
    found = on_ring(partial(local_softmax, margin, vocabulary), 4, (left, right, *about, *further), scale)
    return (found[0], found[1]), (found[2], found[3])


def ring_sigmoid_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    about: tuple[About, About],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    vocabulary: int = 0,
) -> Rows:
    """`sigmoid_loss` block by block; arguments as in `ring_softmax_loss`, `bias` is added to every logit."""
    rows: Rows = on_ring(partial(local_sigmoid, vocabulary), 2, (left, right, *about), scale, bias)
    return rows


def on_ring(local: Callable[..., Any], results: int, split: tuple[Any, ...], *whole: Array) -> Any:
    """Runs `local` on each device's rows of `split`, with the `whole` arrays everywhere; `results` arrays come back."""
    rows = spec("batch")
    layout = *(rows for _ in split), *(spec() for _ in whole)
    return jax.shard_map(local, in_specs=layout, out_specs=(rows,) * results)(*split, *whole)


def listen(heard: Heard, logits: Float[Array, "I J"], pairs: tuple[Bool[Array, "I J"], Bool[Array, "I J"]]) -> Heard:
    """What rows have heard of their negatives after one block more."""
    (most, total, count), (positive, negative) = heard, pairs
    higher = jnp.maximum(most, jnp.where(negative, logits, FAR).max(axis=1))
    new = jnp.where(negative, jnp.exp(logits - higher[:, None]), 0).sum(axis=1)
    return higher, total * jnp.exp(most - higher) + new, count + positive.sum(axis=1)


def answer(
    sums: tuple[Array, Array], hits: Float[Array, "I J"], against: Float[Array, " I"], positive: Bool[Array, "I J"]
) -> tuple[Array, Array]:
    """Sums over a row's positives of their losses against its negatives, and of these losses' slopes."""
    gap = against[:, None] - hits
    losses = jnp.where(positive, jax.nn.softplus(gap), 0).sum(axis=1)
    return sums[0] + losses, sums[1] + jnp.where(positive, jax.nn.sigmoid(gap), 0).sum(axis=1)


def slopes(
    scale: Array, cosines: Float[Array, "I J"], margin: float, pairs: tuple[Array, Array], weights: dict[str, Array]
) -> tuple[Float[Array, "I J"], Float[Array, "I J"]]:
    """Gradients of rows' losses by the logits of their positives and of their negatives.

    Args:
      scale, margin: as for `ring_softmax_loss`.
      cosines: of the block.
      pairs: positives and negatives.
      weights: of each row: `against`, and what `drawn` and `pushed` are multiplied with.
    """
    (positive, negative), against = pairs, weights["against"][:, None]
    drawn = -weights["drawn"][:, None] * jax.nn.sigmoid(against - scale * (cosines - margin))
    # The exponent of a negative is at most 0; another's could overflow.
    likely = jnp.exp(jnp.where(negative, scale * cosines - against, FAR))
    return jnp.where(positive, drawn, 0), weights["pushed"][:, None] * likely


def local_softmax(
    margin: float,
    vocabulary: int,
    left: Float[Array, "b E"],
    right: Float[Array, "b E"],
    about_left: About,
    about_right: About,
    bank: Float[Array, "k E"] | None,
    about_bank: About | None,
    scale: Float[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    """One device's part of `ring_softmax_loss`."""
    known = (about_left, about_right, bank, about_bank)

    @jax.custom_vjp
    def loss(left: Array, right: Array, scale: Array, known: Any) -> tuple[Array, Array, Array, Array]:
        return forward(left, right, scale, known)[0]

    def forward(left: Array, right: Array, scale: Array, known: Any) -> tuple[tuple[Array, Array, Array, Array], Any]:
        about_left, about_right, bank, about_bank = known
        zeros = varying(jnp.zeros(len(left)))

        def first(own: Heard, column: tuple[Array, About], luggage: Heard) -> tuple[Heard, Heard]:
            pairs = pairs_of(about_left, column[1], vocabulary)
            logits = scale * cosines_of(left, column[0])
            return listen(own, logits, pairs), listen(luggage, logits.T, turned(pairs))

        def first_bank(own: Heard, column: tuple[Array, About], luggage: None) -> tuple[Heard, None]:
            _, negative = pairs_of(about_left, column[1], vocabulary)
            logits = scale * cosines_of(left, column[0])
            return listen(own, logits, (jnp.zeros_like(negative), negative)), luggage

        nothing = (zeros + FAR, zeros, zeros)
        heard, theirs = round_trip(first, nothing, (right, about_right), nothing)
        if bank is not None:
            heard, _ = round_trip(first_bank, heard, (bank, about_bank), None)
        against = [jnp.where(x[1] > 0, x[0] + jnp.log(jnp.maximum(x[1], 1e-37)), FAR) for x in (heard, theirs)]

        def second(own: Any, column: tuple[Array, About, Array], luggage: Any) -> tuple[Any, Any]:
            positive, _ = pairs_of(about_left, column[1], vocabulary)
            hits = scale * (cosines_of(left, column[0]) - margin)
            return answer(own, hits, against[0], positive), answer(luggage, hits.T, column[2], positive.T)

        sums = round_trip(second, (zeros, zeros), (right, about_right, against[1]), (zeros, zeros))
        counts = heard[2], theirs[2]
        parts = [jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0) for count in counts]
        rows = [total[0] * part for total, part in zip(sums, parts, strict=True)]
        weights = [
            {"against": a, "drawn": part, "pushed": total[1] * part}
            for a, part, total in zip(against, parts, sums, strict=True)
        ]
        return (rows[0], counts[0] > 0, rows[1], counts[1] > 0), (left, right, scale, known, weights)

    def backward(saved: Any, cotangents: tuple[Array, Any, Array, Any]) -> tuple[Array, Array, Array, None]:
        left, right, scale, (about_left, about_right, bank, about_bank), weights = saved
        mine, theirs = (
            {**each, "drawn": rows * each["drawn"], "pushed": rows * each["pushed"]}
            for each, rows in zip(weights, cotangents[::2], strict=True)
        )

        def visit(own: tuple[Array, Array], column: tuple[Array, About, Any], luggage: Array) -> tuple[Any, Array]:
            pairs = pairs_of(about_left, column[1], vocabulary)
            cosines = cosines_of(left, column[0])
            ours = slopes(scale, cosines, margin, pairs, mine)
            back = slopes(scale, cosines.T, margin, turned(pairs), column[2])
            drawn, pushed = ours[0] + back[0].T, ours[1] + back[1].T
            slope = scale * (drawn + pushed)
            to_scale = (drawn * (cosines - margin) + pushed * cosines).sum()
            return (own[0] + slope @ column[0], own[1] + to_scale), luggage + slope.T @ left

        def visit_bank(own: tuple[Array, Array], column: tuple[Array, About], luggage: None) -> tuple[Any, None]:
            pairs = pairs_of(about_left, column[1], vocabulary)
            cosines = cosines_of(left, column[0])
            _, pushed = slopes(scale, cosines, margin, pairs, mine)
            return (own[0] + scale * pushed @ column[0], own[1] + (pushed * cosines).sum()), luggage

        own = (jnp.zeros_like(left), varying(jnp.zeros(())))
        own, to_right = round_trip(visit, own, (right, about_right, theirs), jnp.zeros_like(right))
        if bank is not None:
            own, _ = round_trip(visit_bank, own, (bank, about_bank), None)
        return own[0], to_right, jax.lax.psum(own[1], AXES), None

    loss.defvjp(forward, backward)
    return loss(left, right, scale, known)


def local_sigmoid(
    vocabulary: int,
    left: Float[Array, "b E"],
    right: Float[Array, "b E"],
    about_left: About,
    about_right: About,
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """One device's part of `ring_sigmoid_loss`."""

    @jax.custom_vjp
    def loss(left: Array, right: Array, scale: Array, bias: Array, known: Any) -> tuple[Array, Array]:
        return forward(left, right, scale, bias, known)[0]

    def forward(left: Array, right: Array, scale: Array, bias: Array, known: Any) -> tuple[tuple[Array, Array], Any]:
        def visit(own: Rows, column: tuple[Array, About], luggage: None) -> tuple[Rows, None]:
            positive, negative = pairs_of(known[0], column[1], vocabulary)
            logits = scale * cosines_of(left, column[0]) + bias
            losses = jnp.where(positive | negative, jax.nn.softplus(jnp.where(positive, -logits, logits)), 0)
            return (own[0] + losses.sum(axis=1), own[1] | (positive | negative).any(axis=1)), luggage

        start = varying(jnp.zeros(len(left))), varying(jnp.zeros(len(left), bool))
        return round_trip(visit, start, (right, known[1]), None)[0], (left, right, scale, bias, known)

    def backward(saved: Any, cotangents: tuple[Array, Any]) -> tuple[Array, Array, Array, Array, None]:
        left, right, scale, bias, known = saved
        rows = cotangents[0]

        def visit(
            own: tuple[Array, Array, Array], column: tuple[Array, About], luggage: Array
        ) -> tuple[tuple[Array, Array, Array], Array]:
            positive, negative = pairs_of(known[0], column[1], vocabulary)
            cosines = cosines_of(left, column[0])
            wrong = jax.nn.sigmoid(scale * cosines + bias) - positive
            slope = rows[:, None] * jnp.where(positive | negative, wrong, 0)
            own = own[0] + scale * slope @ column[0], own[1] + (slope * cosines).sum(), own[2] + slope.sum()
            return own, luggage + scale * slope.T @ left

        nothing = varying(jnp.zeros(()))
        start = jnp.zeros_like(left), nothing, nothing
        own, to_right = round_trip(visit, start, (right, known[1]), jnp.zeros_like(right))
        return own[0], to_right, jax.lax.psum(own[1], AXES), jax.lax.psum(own[2], AXES), None

    loss.defvjp(forward, backward)
    return loss(left, right, scale, bias, (about_left, about_right))

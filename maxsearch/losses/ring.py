"""The contrastive losses without a matrix of all pairs: the right side travels round the ring of devices.

Each device holds its own rows of the left side and, one after the other, every device's rows of the right side, so that
one block of b x b pairs is in memory at a time. Values and gradients are those of losses/contrastive.py, which is the
reference. The schedule is that of ring attention (Liu et al. 2023, arXiv 2310.01889) and of SigLIP's chunked loss (Zhai
et al. 2023, section 3.3); streaming several positives against the negatives alone is ours.

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


def onwards(x: Any) -> Any:
    """What the previous device of the ring holds."""
    n = jax.lax.axis_size(AXES)
    return jax.lax.ppermute(x, AXES, [(place, (place + 1) % n) for place in range(n)])


def round_trip(visit: Callable[[Any, Any], Any], carry: Any, travellers: Any) -> Any:
    """Folds `visit` over every device's travellers, the device's own first."""

    def hop(state: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        carry, travellers = state
        # Sent on before they are read, so that the way and the work overlap.
        return (visit(carry, travellers), onwards(travellers)), None

    hops = jax.lax.axis_size(AXES) - 1
    (carry, travellers), _ = jax.lax.scan(hop, (carry, travellers), None, length=hops)
    return visit(carry, travellers)


def gradient_trip(
    visit: Callable[[Any, Any], tuple[Any, Array]], carry: Any, travellers: Any, gradient: Array
) -> tuple[Any, Array]:
    """As `round_trip`, and every traveller's gradient, to which each visit adds, comes home with it.

    Args:
      visit: gives the next carry, and what the visit adds to the travellers' gradient.
      carry: at first.
      travellers: the device's own.
      gradient: zeros in the gradient's shape.
    """

    def hop(state: tuple[Any, Any, Array], _: None) -> tuple[tuple[Any, Any, Array], None]:
        carry, travellers, gradient = state
        carry, more = visit(carry, travellers)
        return (carry, onwards(travellers), onwards(gradient + more)), None

    hops = jax.lax.axis_size(AXES) - 1
    (carry, travellers, gradient), _ = jax.lax.scan(hop, (carry, travellers, gradient), None, length=hops)
    carry, more = visit(carry, travellers)
    return carry, onwards(gradient + more)


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
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """`softmax_loss` block by block; see there for what it means.

    A streaming log-sum-exp over the negatives goes round first, and each positive is held against it on a second round;
    the backward pass is one round more.

    Args:
      left, right: unit vectors, split over the batch axes.
      about: of the left and of the right side.
      scale: multiplies the cosines.
      margin: taken off the cosine of a positive.
      bank: further negatives with what is known of them, split over the batch axes too; what is known to belong
        together counts as no pair.
      vocabulary: size of the vocabulary of keywords.

    Returns:
      The loss of each row, and whether it has one (some valid positive); rows without are 0.
    """
    further = (None, None) if bank is None else bank
    return on_ring(partial(local_softmax, margin, vocabulary), (left, right, *about, *further), scale)


def ring_sigmoid_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    about: tuple[About, About],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    vocabulary: int = 0,
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """`sigmoid_loss` block by block; arguments as in `ring_softmax_loss`, `bias` is added to every logit."""
    return on_ring(partial(local_sigmoid, vocabulary), (left, right, *about), scale, bias)


def on_ring(local: Callable[..., Any], split: tuple[Any, ...], *whole: Array) -> Any:
    """Runs `local` on each device's rows of `split`, with the `whole` arrays everywhere."""
    rows = spec("batch")
    layout = *(rows for _ in split), *(spec() for _ in whole)
    return jax.shard_map(local, in_specs=layout, out_specs=(rows, rows))(*split, *whole)


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
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """One device's part of `ring_softmax_loss`."""
    known = (about_left, about_right, bank, about_bank)

    @jax.custom_vjp
    def loss(left: Array, right: Array, scale: Array, known: Any) -> tuple[Array, Array]:
        return forward(left, right, scale, known)[0]

    def forward(left: Array, right: Array, scale: Array, known: Any) -> tuple[tuple[Array, Array], Any]:
        about_left, about_right, bank, about_bank = known
        empty = varying(jnp.zeros(len(left)))

        def listen(carry: tuple[Array, Array, Array], column: tuple[Array, About]) -> tuple[Array, Array, Array]:
            most, total, count = carry
            positive, negative = pairs_of(about_left, column[1], vocabulary)
            logits = scale * cosines_of(left, column[0])
            higher = jnp.maximum(most, jnp.where(negative, logits, FAR).max(axis=1))
            new = jnp.where(negative, jnp.exp(logits - higher[:, None]), 0).sum(axis=1)
            return higher, total * jnp.exp(most - higher) + new, count + positive.sum(axis=1)

        heard = round_trip(listen, (empty + FAR, empty, empty), (right, about_right))
        count = heard[2]
        if bank is not None:
            heard = round_trip(listen, heard, (bank, about_bank))
        against = jnp.where(heard[1] > 0, heard[0] + jnp.log(jnp.maximum(heard[1], 1e-37)), FAR)

        def answer(carry: tuple[Array, Array], column: tuple[Array, About]) -> tuple[Array, Array]:
            positive, _ = pairs_of(about_left, column[1], vocabulary)
            gap = against[:, None] - scale * (cosines_of(left, column[0]) - margin)
            losses = jnp.where(positive, jax.nn.softplus(gap), 0).sum(axis=1)
            return carry[0] + losses, carry[1] + jnp.where(positive, jax.nn.sigmoid(gap), 0).sum(axis=1)

        losses, share = round_trip(answer, (empty, empty), (right, about_right))
        part = jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0)
        return (losses * part, count > 0), (left, right, scale, known, against, share * part, part)

    def backward(saved: Any, cotangents: tuple[Array, Any]) -> tuple[Array, Array, Array, None]:
        left, right, scale, (about_left, about_right, bank, about_bank), against, share, part = saved
        rows = cotangents[0]

        def push(cosines: Array, negative: Array) -> Array:
            # The exponent of a negative is at most 0; another's could overflow.
            likely = jnp.exp(jnp.where(negative, scale * cosines - against[:, None], FAR))
            return (rows * share)[:, None] * likely

        def visit(carry: tuple[Array, Array], column: tuple[Array, About]) -> tuple[tuple[Array, Array], Array]:
            positive, negative = pairs_of(about_left, column[1], vocabulary)
            cosines = cosines_of(left, column[0])
            near = cosines - margin
            drawn = jnp.where(positive, -(rows * part)[:, None] * jax.nn.sigmoid(against[:, None] - scale * near), 0)
            pushed = push(cosines, negative)
            slope = scale * (drawn + pushed)
            return (carry[0] + slope @ column[0], carry[1] + (drawn * near + pushed * cosines).sum()), slope.T @ left

        def visit_bank(carry: tuple[Array, Array], column: tuple[Array, About]) -> tuple[Array, Array]:
            cosines = cosines_of(left, column[0])
            pushed = push(cosines, pairs_of(about_left, column[1], vocabulary)[1])
            return carry[0] + scale * pushed @ column[0], carry[1] + (pushed * cosines).sum()

        carry = (jnp.zeros_like(left), varying(jnp.zeros(())))
        carry, to_right = gradient_trip(visit, carry, (right, about_right), jnp.zeros_like(right))
        if bank is not None:
            carry = round_trip(visit_bank, carry, (bank, about_bank))
        return carry[0], to_right, jax.lax.psum(carry[1], AXES), None

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
        def visit(carry: tuple[Array, Array], column: tuple[Array, About]) -> tuple[Array, Array]:
            positive, negative = pairs_of(known[0], column[1], vocabulary)
            logits = scale * cosines_of(left, column[0]) + bias
            losses = jnp.where(positive | negative, jax.nn.softplus(jnp.where(positive, -logits, logits)), 0)
            return carry[0] + losses.sum(axis=1), carry[1] | (positive | negative).any(axis=1)

        start = varying(jnp.zeros(len(left))), varying(jnp.zeros(len(left), bool))
        return round_trip(visit, start, (right, known[1])), (left, right, scale, bias, known)

    def backward(saved: Any, cotangents: tuple[Array, Any]) -> tuple[Array, Array, Array, Array, None]:
        left, right, scale, bias, known = saved
        rows = cotangents[0]

        def visit(
            carry: tuple[Array, Array, Array], column: tuple[Array, About]
        ) -> tuple[tuple[Array, Array, Array], Array]:
            positive, negative = pairs_of(known[0], column[1], vocabulary)
            cosines = cosines_of(left, column[0])
            wrong = jax.nn.sigmoid(scale * cosines + bias) - positive
            slope = rows[:, None] * jnp.where(positive | negative, wrong, 0)
            to_left = carry[0] + scale * slope @ column[0]
            return (to_left, carry[1] + (slope * cosines).sum(), carry[2] + slope.sum()), scale * slope.T @ left

        nothing = varying(jnp.zeros(()))
        start = jnp.zeros_like(left), nothing, nothing
        carry, to_right = gradient_trip(visit, start, (right, known[1]), jnp.zeros_like(right))
        return carry[0], to_right, jax.lax.psum(carry[1], AXES), jax.lax.psum(carry[2], AXES), None

    loss.defvjp(forward, backward)
    return loss(left, right, scale, bias, (about_left, about_right))

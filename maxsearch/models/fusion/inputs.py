"""What every fusion tower is given, and what it answers.

B batch, T tokens, D fusion width, E size of the compared vectors, M parts: title, image and, if there are any, visual
words.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.models.layers import masked_mean


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """Token states of one modality, and which of them are real.

    Attributes:
      states, mask: what these words say.
      pooled: the state that stands for all of them, where a pretrained tower has one; else their mean does.
    """

    states: Float[Array, "B T D"]
    mask: Bool[Array, "B T"]
    pooled: Float[Array, "B D"] | None = None

    @property
    def summary(self) -> Float[Array, "B D"]:
        """One state for all tokens."""
        return masked_mean(self.states, self.mask) if self.pooled is None else self.pooled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FusionInputs:
    """What is known of a batch of products before their title and image are joined.

    Attributes:
      words, patches: token states of both modalities in the tower's width, those of several text fields or pictures end
        to end; a missing modality is one null token.
      visual: the images' visual words in the same space as `words`, or None when the model has none. A product without
        a picture has none that is real.
      title, image: the unit vectors of each modality alone.
      visual_vector: the unit vector of the visual words alone, made by the title's own projection; None without them.
      present: whether the product has a title, and an image; a missing one weighs 0.
    """

    words: Tokens
    patches: Tokens
    visual: Tokens | None
    title: Float[Array, "B E"]
    image: Float[Array, "B E"]
    visual_vector: Float[Array, "B E"] | None
    present: Bool[Array, "B 2"]

    @property
    def parts(self) -> tuple[Tokens, ...]:
        """The words, the patches and, where the model has them, the visual words."""
        return (self.words, self.patches, *(() if self.visual is None else (self.visual,)))

    @property
    def vectors(self) -> tuple[Float[Array, "B E"], ...]:
        """The unit vector of each part."""
        return (self.title, self.image, *(() if self.visual_vector is None else (self.visual_vector,)))

    @property
    def parts_present(self) -> Bool[Array, "B M"]:
        """Which parts a product has; visual words only with a picture."""
        if self.visual is None:
            return self.present
        seen = self.present[:, 1:] & self.visual.mask.any(axis=1, keepdims=True)
        return jnp.concatenate([self.present, seen], axis=1)


@runtime_checkable
class Fusion(Protocol):
    """What every fusion tower answers."""

    def __call__(
        self, inputs: FusionInputs, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """The unnormalised product vector, and how much title and image weigh in it (rows sum to 1).

        Args:
          inputs: the products.
          key: turns dropout on.
        """

"""What is kept of the architecture of a pretrained source, so that a run stands without it."""

from dataclasses import dataclass
from typing import Literal

from maxsearch.config.training import ParamGroup

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]


@dataclass(frozen=True)
class TextSource:
    """A text tower in the architecture of its source; width, depth and heads stand in the tower's own config.

    Attributes:
      name: folder or Hub name that these figures were read from.
      family: bert stands for RoBERTa and XLM-R too.
      hidden: width of the MLP.
      activation: of the MLP; gelu is exact, gelu_tanh its approximation, quick_gelu x sigmoid(1.702 x).
      epsilon: of the layer norms.
      positions: rows of the table of positions.
      offset: its row of the first token (2 in RoBERTa and MPNet).
      types: rows of the table of token types, of which the first is used.
      buckets: rows of MPNet's table of relative positions.
      pad: the padding token, which SigLIP's tower reads.
      projection: size of the source's own text vectors, 0 where it has no projection to them.
    """

    name: str
    family: Literal["bert", "distilbert", "mpnet", "clip", "siglip"]
    hidden: int
    activation: Activation
    epsilon: float
    positions: int
    offset: int = 0
    types: int = 0
    buckets: int = 0
    pad: int = 0
    projection: int = 0


@dataclass(frozen=True)
class ImageSource:
    """An image tower in the architecture of its source; width, depth, heads and patch stand in the tower's own config.

    Attributes:
      name, hidden, activation, epsilon: as of TextSource.
      family: which it is.
      projection: size of the source's own image vectors, 0 where it has no projection to them.
      mean, std: of the source's pixels in 0..1, by channel.
    """

    name: str
    family: Literal["vit", "clip", "siglip"]
    hidden: int
    activation: Activation
    epsilon: float
    projection: int = 0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


def layer_groups(tower: str, depth: int, decay: float, *, lr: float = 1.0, frozen: int = 0) -> tuple[ParamGroup, ...]:
    """Parameter groups of a pretrained tower whose layers learn the slower, the lower they lie (ELECTRA, BEiT).

    The last layer learns at `lr` x the learning rate, each one below at `decay` x that of the one above, and what lies
    below the layers once more. Norms and biases have no weight decay.

    Args:
      tower: query_encoder, title_encoder or image_encoder.
      depth: its layers.
      decay: from one layer to the one below; 1 lets all learn alike.
      lr: of the last layer and what lies above it.
      frozen: the lowest layers, so many and what lies below them, that do not learn at all. 0 freezes nothing.
    """
    plain = r"(^|/)(bias|scale|position|class_token)$"
    groups = []
    for number in reversed(range(depth)):
        rate = None if number < frozen else lr * decay ** (depth - 1 - number)
        if rate is not None:
            groups.append(ParamGroup(f"^{tower}/layers/layer_{number}/.*{plain}", lr=rate, weight_decay=0.0))
        groups.append(ParamGroup(f"^{tower}/layers/layer_{number}/", lr=rate))
    below = None if frozen else lr * decay**depth
    return (*groups, ParamGroup(f"^{tower}/(embedding|embedded|types|position|class_token|stem|before)(/|$)", lr=below))

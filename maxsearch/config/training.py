"""How training goes: optimizer, mesh, length, stages."""

import re
from dataclasses import dataclass, field
from typing import Literal

from maxsearch.config.checks import require
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class ParamGroup:
    """Parameters whose path contains a match of `pattern`, and how they learn; the first match counts.

    `lr` multiplies the learning rate; None freezes the group.
    """

    pattern: str
    lr: float | None = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UsageError(f"optim.groups: {self.pattern!r} is not a regular expression ({error})") from None


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to `final_lr` x the peak."""

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_lr: float = 0.01
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    groups: tuple[ParamGroup, ...] = (
        ParamGroup(r"(^|/)(bias|scale|logit_\w+|null|position)$", weight_decay=0.0),
        ParamGroup(".*"),
    )

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"optim.learning_rate must be above 0, not {self.learning_rate}")
        require(self.warmup_steps >= 0, f"optim.warmup_steps must not be negative, not {self.warmup_steps}")
        require(0 <= self.ema_decay < 1, f"optim.ema_decay must lie in [0, 1), not {self.ema_decay}")
        require(self.clip_norm > 0, f"optim.clip_norm must be above 0, not {self.clip_norm}")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 takes what the others leave. Batches are split over replica and fsdp."""

    replica: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.replica, self.fsdp, self.tensor)
        require(sizes.count(-1) <= 1, "mesh: only one of replica, fsdp and tensor may be -1")
        require(all(size == -1 or size >= 1 for size in sizes), f"mesh: axis sizes must be positive or -1, not {sizes}")


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, in how many pieces, and what to keep.

    With `microbatches` above 1 the towers see the batch in that many parts, whose activations are in memory one part at
    a time, while the losses between vectors see all of it (a gradient cache: one more forward pass).
    """

    steps: int = 1000
    microbatches: int = 1
    log_every: int = 20
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    check_replicas: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "microbatches", "log_every", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, name)
            require(value >= 1, f"train.{name} must be at least 1, not {value}")
        require(self.check_replicas >= 0, f"train.check_replicas must not be negative, not {self.check_replicas}")


@dataclass(frozen=True)
class Stage:
    """A part of a run with losses, trainable parameters and learning rate of its own.

    Attributes:
      name: for logs and messages.
      steps: how long, relative to the other stages; `--steps` and `--minutes` keep the proportions.
      weights: loss terms whose weight differs from the config's.
      learning_rate: the peak; None takes the config's. Each stage decays anew, after its share of the warm-up.
      groups: parameter groups that come before the config's, such as ParamGroup("encoder", lr=None) to freeze.
      start: how the aligner's map is found before the first step: `unsupervised` from the clouds of patches and words
        alone, `refined` with CSLS and Procrustes after it (AlignCMSS, stages A and B); empty leaves it as it is.
    """

    name: str
    steps: int
    weights: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    groups: tuple[ParamGroup, ...] = ()
    start: Literal["", "unsupervised", "refined"] = ""

    def __post_init__(self) -> None:
        require(bool(self.name), "stages: every stage needs a name")
        require(self.steps >= 1, f"stages: steps of {self.name} must be at least 1, not {self.steps}")
        require(
            self.learning_rate is None or self.learning_rate > 0,
            f"stages: learning_rate of {self.name} must be above 0, not {self.learning_rate}",
        )

"""One frozen, validated description of a run."""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import dacite

from maxsearch.errors import UsageError


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


def _require_transformer(where: str, tower: "TextConfig | ImageConfig | FusionConfig") -> None:
    heads, width = tower.heads, tower.width
    _require(heads >= 1, f"{where}: heads must be at least 1, not {heads}")
    _require(width >= 1 and width % heads == 0, f"{where}: width must be a multiple of heads {heads}, not {width}")
    _require(tower.depth >= 0, f"{where}: depth must not be negative, not {tower.depth}")
    _require(tower.mlp_ratio * width >= 1, f"{where}: mlp_ratio leaves the MLP no width, {tower.mlp_ratio}")
    _require(0 <= tower.dropout < 1, f"{where}: dropout must lie in [0, 1), not {tower.dropout}")


@dataclass(frozen=True)
class TextConfig:
    """A text tower: token embeddings, then `depth` transformer blocks (0 makes it a bag of words)."""

    width: int = 128
    depth: int = 1
    heads: int = 4
    mlp_ratio: float = 4.0
    max_tokens: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_transformer("model.query or model.title", self)
        _require(
            self.max_tokens >= 1, f"model.query or model.title: max_tokens must be at least 1, not {self.max_tokens}"
        )


@dataclass(frozen=True)
class ImageConfig:
    """A vision transformer over patches of an image of `size` (height, width) pixels.

    `stem` cuts the patches: `patch` is ViT's one linear projection of a `patch` x `patch` square; `conv` is a stack of
    convolutions down to the same grid (Xiao et al. 2021), the better start for small data, and `stem_width` wide at
    first.
    """

    size: tuple[int, int] = (64, 64)
    patch: int = 8
    stem: Literal["patch", "conv"] = "patch"
    stem_width: int = 32
    width: int = 128
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_transformer("model.image", self)
        _require(self.patch >= 1, f"model.image: patch must be at least 1, not {self.patch}")
        _require(self.stem_width >= 1, f"model.image: stem_width must be at least 1, not {self.stem_width}")
        _require(
            all(edge % self.patch == 0 and edge > 0 for edge in self.size),
            f"model.image: size {self.size} must be multiples of patch {self.patch}",
        )
        _require(
            self.stem == "patch" or (self.patch >= 4 and math.log2(self.patch).is_integer()),
            f"model.image.patch must be a power of two from 4 for the conv stem, not {self.patch}",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.size[0] // self.patch, self.size[1] // self.patch


@dataclass(frozen=True)
class FusionConfig:
    """The tower that joins title and image into the product vector.

    `depth` transformer blocks read title words and patches together; 0 joins the pooled vectors alone.
    """

    width: int = 128
    depth: int = 0
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_transformer("model.fusion", self)


@dataclass(frozen=True)
class ModelConfig:
    """Query, title and image encoders and the fusion tower.

    `dim` is the size of the vectors that are compared. `dtype` is that of the computation; parameters are float32.
    `remat` recomputes each block in the backward pass, and `unroll` says how many blocks the compiler sees at once
    (0: all of them, faster to run and slower to compile).
    """

    dim: int = 128
    vocab_size: int = 8192
    query: TextConfig = field(default_factory=TextConfig)
    title: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    unroll: int = 0

    def __post_init__(self) -> None:
        _require(self.dim >= 1, f"model.dim must be at least 1, not {self.dim}")
        _require(self.vocab_size >= 64, f"model.vocab_size must be at least 64, not {self.vocab_size}")
        _require(self.unroll >= 0, f"model.unroll must not be negative, not {self.unroll}")


@dataclass(frozen=True)
class Augment:
    """Random changes of a training example.

    Attributes:
      flip: mirror half of the pictures.
      scale: smallest and largest area of the random box, as a fraction of the canvas.
      ratio: smallest and largest stretch of the box's aspect ratio, relative to the target's.
      brightness: largest relative change of brightness. Off by default, as contrast is: shoppers ask for colours.
      contrast: largest relative change of contrast.
      drop_title: probability that a sample loses its title.
      drop_image: probability that a sample loses its picture. A sample never loses both, nor the only one it has.
      title_word_drop: probability that each word of a title is left out; at least one stays.
      query_word_drop: the same for queries.
    """

    flip: bool = True
    scale: tuple[float, float] = (0.7, 1.0)
    ratio: tuple[float, float] = (0.85, 1.18)
    brightness: float = 0.0
    contrast: float = 0.0
    drop_title: float = 0.0
    drop_image: float = 0.0
    title_word_drop: float = 0.0
    query_word_drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "drop_title", "drop_image", "title_word_drop", "query_word_drop"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"data.augment.{name} is {value}: choose a number from 0 to 1")
        if self.drop_title + self.drop_image > 1.0:
            total = self.drop_title + self.drop_image
            raise UsageError(f"data.augment.drop_title + data.augment.drop_image is {total}: keep the sum at most 1")
        low, high = self.scale
        if not 0.0 < low <= high <= 1.0:
            raise UsageError(f"data.augment.scale is {self.scale}: choose two rising numbers above 0 and at most 1")
        low, high = self.ratio
        if not 0.0 < low <= high or not math.isfinite(high):
            raise UsageError(f"data.augment.ratio is {self.ratio}: choose two rising numbers above 0")


@dataclass(frozen=True)
class DataConfig:
    """The training stream.

    `batch_size` counts examples over all hosts. `tokenizer` is a folder with a fast tokenizer, or empty to train one on
    the catalogue. Examples are drawn in proportion to weight ** `weight_power` (0: every interaction alike).
    `text_key` and `image_key` name the features of a `tfds:` source. `cache_images_mb` bounds a cache of decoded
    images. `image_edge` is the edge that the images were prepared with; 0 takes it from the dataset.
    """

    batch_size: int = 256
    tokenizer: str = ""
    weight_power: float = 0.5
    augment: Augment = field(default_factory=Augment)
    workers: int = 0
    threads: int = 1
    prefetch: int = 4
    cache_images_mb: int = 0
    image_edge: int = 0
    text_key: str = "caption"
    image_key: str = "image"

    def __post_init__(self) -> None:
        _require(
            self.batch_size >= 2,
            f"data.batch_size must be at least 2 (losses contrast examples), not {self.batch_size}",
        )
        _require(self.workers >= 0, f"data.workers must not be negative, not {self.workers}")
        _require(self.threads >= 1, f"data.threads must be at least 1, not {self.threads}")
        _require(self.prefetch >= 1, f"data.prefetch must be at least 1, not {self.prefetch}")


@dataclass(frozen=True)
class LossConfig:
    """The contrastive terms: a weight for each pair of vectors (0 leaves the pair out).

    `kind` is softmax (InfoNCE, both directions) or sigmoid (SigLIP). `scale` starts the learned logit scale, which is
    1 / temperature.
    `pair_power` weighs each pair by its interaction weight ** pair_power (Marqo GCL); 0 weighs all alike.
    """

    kind: Literal["softmax", "sigmoid"] = "softmax"
    query_product: float = 1.0
    query_title: float = 0.5
    query_image: float = 0.5
    title_image: float = 0.0
    scale: float = 14.0
    max_scale: float = 100.0
    pair_power: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.query_product, self.query_title, self.query_image, self.title_image)
        _require(min(weights) >= 0 and max(weights) > 0, "loss: weights must not be negative and one must be above 0")
        _require(0 < self.scale <= self.max_scale, f"loss.scale must lie in (0, max_scale], not {self.scale}")


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
        _require(self.learning_rate > 0, f"optim.learning_rate must be above 0, not {self.learning_rate}")
        _require(self.warmup_steps >= 0, f"optim.warmup_steps must not be negative, not {self.warmup_steps}")
        _require(0 <= self.ema_decay < 1, f"optim.ema_decay must lie in [0, 1), not {self.ema_decay}")
        _require(self.clip_norm > 0, f"optim.clip_norm must be above 0, not {self.clip_norm}")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 takes what the others leave. Batches are split over replica and fsdp."""

    replica: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.replica, self.fsdp, self.tensor)
        _require(sizes.count(-1) <= 1, "mesh: only one of replica, fsdp and tensor may be -1")
        _require(
            all(size == -1 or size >= 1 for size in sizes), f"mesh: axis sizes must be positive or -1, not {sizes}"
        )


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to keep."""

    steps: int = 1000
    log_every: int = 20
    checkpoint_every: int = 500
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, name)
            _require(value >= 1, f"train.{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    name: str = "custom"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` turns back into an equal Config."""
        value: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any], *, where: str) -> "Config":
        """Reads a Config; `where` names the file for the message.

        Raises:
          UsageError: an unknown field, or a value of the wrong type.
        """
        _require(isinstance(value, dict), f"{where} holds no config: it must be a JSON object")
        try:
            return dacite.from_dict(cls, value, dacite.Config(strict=True, cast=[tuple, float]))
        except dacite.DaciteError as error:
            raise UsageError(f"{where} does not fit this version of maxsearch: {error}") from None

    def fingerprint(self) -> str:
        """Hex SHA-256 over every value."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

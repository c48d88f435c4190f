"""The architecture."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Fixed, Suppress

from maxsearch.config.checks import require
from maxsearch.config.pretrained import ImageSource, TextSource


def _require_transformer(where: str, tower: "TextConfig | ImageConfig | FusionConfig") -> None:
    heads, width = tower.heads, tower.width
    require(heads >= 1, f"{where}: heads must be at least 1, not {heads}")
    require(width >= 1 and width % heads == 0, f"{where}: width must be a multiple of heads {heads}, not {width}")
    require(tower.depth >= 0, f"{where}: depth must not be negative, not {tower.depth}")
    require(tower.mlp_ratio * width >= 1, f"{where}: mlp_ratio leaves the MLP no width, {tower.mlp_ratio}")
    require(0 <= tower.dropout < 1, f"{where}: dropout must lie in [0, 1), not {tower.dropout}")


def _require_source(where: str, tower: "TextConfig | ImageConfig") -> None:
    require(
        tower.pool == "mean" or bool(tower.pretrained),
        f"{where}: pool source is that of a pretrained tower: set pretrained, or pool mean",
    )
    require(tower.keep_layers >= 0, f"{where}: keep_layers must not be negative, not {tower.keep_layers}")


@dataclass(frozen=True)
class TextConfig:
    """A text tower: token embeddings, then `depth` transformer blocks (0 makes it a bag of words).

    `pretrained` names a folder or a Hub model to begin with: its architecture takes the place of width, depth, heads
    and mlp_ratio, and its tokenizer becomes the run's. `source` holds what was read of it. `keep_layers` takes so many
    of its lowest layers (0: all), for a smaller tower. `pool` says how token states become a vector: their `mean`, or
    as the `source` does it.
    """

    width: int = 128
    depth: int = 1
    heads: int = 4
    mlp_ratio: float = 4.0
    max_tokens: int = 16
    dropout: float = 0.0
    pretrained: str = ""
    keep_layers: int = 0
    pool: Literal["mean", "source"] = "mean"
    source: Annotated[TextSource | None, Fixed, Suppress] = None

    def __post_init__(self) -> None:
        _require_transformer("model.query or model.title", self)
        _require_source("model.query or model.title", self)
        require(
            self.max_tokens >= 1, f"model.query or model.title: max_tokens must be at least 1, not {self.max_tokens}"
        )


@dataclass(frozen=True)
class ImageConfig:
    """A vision transformer over patches of an image of `size` (height, width) pixels.

    `stem` cuts the patches: `patch` is ViT's one linear projection of a `patch` x `patch` square; `conv` is a stack of
    convolutions down to the same grid (Xiao et al. 2021), the better start for small data, and `stem_width` wide at
    first; `stem_blocks` residual blocks of two convolutions each come after its second stage. With `colour_width` above
    0 a small network of that width reads the mean colours of each patch, 4 x 4 pixels at a time, and adds what it finds
    to the patch: colour is what shoppers ask for, and the norms of the stem blur it.

    `pretrained`, `source`, `keep_layers` and `pool` are as of TextConfig; the source has a stem and a patch of its own,
    and its positions are resized to `size`.
    """

    size: tuple[int, int] = (64, 64)
    patch: int = 8
    stem: Literal["patch", "conv"] = "patch"
    stem_width: int = 32
    stem_blocks: int = 0
    colour_width: int = 0
    width: int = 128
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    pretrained: str = ""
    keep_layers: int = 0
    pool: Literal["mean", "source"] = "mean"
    source: Annotated[ImageSource | None, Fixed, Suppress] = None

    def __post_init__(self) -> None:
        _require_transformer("model.image", self)
        _require_source("model.image", self)
        require(self.patch >= 1, f"model.image: patch must be at least 1, not {self.patch}")
        require(self.stem_width >= 1, f"model.image: stem_width must be at least 1, not {self.stem_width}")
        require(
            self.stem_blocks == 0 or (self.stem == "conv" and self.patch >= 8 and self.stem_blocks > 0),
            "model.image.stem_blocks stand after the second stage of a conv stem: leave them 0, or set stem conv and a "
            "patch of at least 8",
        )
        require(
            self.colour_width == 0 or (self.colour_width > 0 and self.patch % 4 == 0),
            "model.image.colour_width reads squares of 4 x 4 pixels: leave it 0, or make patch a multiple of 4",
        )
        # A source that is not read yet brings its own patch.
        settled = self.source is not None or not self.pretrained
        require(
            all(edge > 0 and (edge % self.patch == 0 or not settled) for edge in self.size),
            f"model.image: size {self.size} must be multiples of patch {self.patch}",
        )
        require(
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

    Attributes:
      kind: how they are joined; see `maxsearch.models.fusion`.
      width, depth, heads, mlp_ratio, dropout: `depth` transformer blocks read title words and patches together before
        they are joined; 0 leaves them out. `heads` are those of the kinds' own cross-attention too.
      clusters, groups, expansion: of NeXtVLAD; a token is made `expansion` times as wide and cut into `groups`.
    """

    kind: Literal["gated", "concat", "modal_adaptation", "cross_attention", "nextvlad"] = "gated"
    width: int = 128
    depth: int = 0
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    clusters: int = 8
    groups: int = 8
    expansion: int = 2

    def __post_init__(self) -> None:
        _require_transformer("model.fusion", self)
        for name in ("clusters", "groups", "expansion"):
            value = getattr(self, name)
            require(value >= 1, f"model.fusion.{name} must be at least 1, not {value}")
        wide = self.width * self.expansion
        require(
            self.kind != "nextvlad" or wide % self.groups == 0,
            f"model.fusion.groups must divide width x expansion = {wide} of nextvlad, not {self.groups}",
        )


@dataclass(frozen=True)
class AlignConfig:
    """The aligner, a linear map from patches to the space of words, and the visual words that it gives to the fusion.

    Attributes:
      visual_words: how many of an image's best words enter the fusion tower; 0 leaves them out.
      source: where they come from. `raw` (the patch itself, projected but not turned into words) and `random` (words
        drawn at random) are controls for ablations.
      hard: each visual word is one word of the vocabulary, not a mixture.
      temperature: of the softmax over the vocabulary.
    """

    visual_words: int = 0
    source: Literal["aligned", "raw", "random"] = "aligned"
    hard: bool = False
    temperature: float = 0.1

    def __post_init__(self) -> None:
        require(self.visual_words >= 0, f"model.align.visual_words must not be negative, not {self.visual_words}")
        require(self.temperature > 0, f"model.align.temperature must be above 0, not {self.temperature}")


@dataclass(frozen=True)
class HeadConfig:
    """The heads that only training, or re-ranking, uses; each exists when some stage gives its loss a weight."""

    depth: int = 1
    heads: int = 4
    mlp_ratio: float = 2.0

    def __post_init__(self) -> None:
        require(self.depth >= 0, f"model.head.depth must not be negative, not {self.depth}")
        require(self.heads >= 1, f"model.head.heads must be at least 1, not {self.heads}")


@dataclass(frozen=True)
class ModelConfig:
    """Query, title and image encoders and the fusion tower.

    `dim` is the size of the vectors that are compared. `dtype` is that of the computation; parameters are float32.
    `remat` says what the backward pass computes again: `none`; `dots`, all of a block but its matrix products with
    weights; `full`, all of it, so that only what goes between blocks stays in memory. `unroll` says how many blocks the
    compiler sees at once (0: all of them, faster to run and slower to compile). A product has up to `images` pictures
    and `texts` text fields, the title first. `keywords` is the size of the vocabulary of keywords, which the keyword
    head predicts, the false-negative mask reads and visual words are taken from; 0 does without.
    """

    dim: int = 128
    vocab_size: int = 8192
    query: TextConfig = field(default_factory=TextConfig)
    title: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    images: int = 1
    texts: int = 1
    keywords: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    unroll: int = 0

    def __post_init__(self) -> None:
        require(self.dim >= 1, f"model.dim must be at least 1, not {self.dim}")
        require(self.vocab_size >= 64, f"model.vocab_size must be at least 64, not {self.vocab_size}")
        require(self.images >= 1, f"model.images must be at least 1, not {self.images}")
        require(self.texts >= 1, f"model.texts must be at least 1, not {self.texts}")
        require(
            self.texts == 1 or self.title.pool == "mean",
            "model.title.pool source is of one text, and model.texts asks for more: take pool mean",
        )
        require(self.keywords >= 0, f"model.keywords must not be negative, not {self.keywords}")
        require(
            self.keywords > 0 or self.align.visual_words == 0 or self.align.source == "raw",
            "model.align.visual_words are taken from the vocabulary of keywords: set model.keywords, such as 1024",
        )
        require(self.unroll >= 0, f"model.unroll must not be negative, not {self.unroll}")

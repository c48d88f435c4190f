"""What training minimises: the weight of every named term, and the options of each family."""

from dataclasses import dataclass, field, replace
from typing import Literal

from maxsearch.config.checks import require


@dataclass(frozen=True)
class BankConfig:
    """A memory bank of earlier product vectors as further negatives (ALBEF's queue).

    Attributes:
      size: vectors that it holds; 0 does without.
      warmup_steps: steps of a stage before it is used, while vectors still change fast.
    """

    size: int = 0
    warmup_steps: int = 100

    def __post_init__(self) -> None:
        require(self.size >= 0, f"loss.bank.size must not be negative, not {self.size}")
        require(self.warmup_steps >= 0, f"loss.bank.warmup_steps must not be negative, not {self.warmup_steps}")


@dataclass(frozen=True)
class MaskedConfig:
    """Which parts the masked losses hide: a share of the words, and of the patches."""

    words: float = 0.15
    patches: float = 0.3

    def __post_init__(self) -> None:
        for name in ("words", "patches"):
            value = getattr(self, name)
            require(0 < value < 1, f"loss.masked.{name} must lie between 0 and 1, not {value}")


@dataclass(frozen=True)
class RankingConfig:
    """Triplet ranking: the margin, and which negatives are drawn, on which side."""

    margin: float = 0.2
    negatives: Literal["random", "semi_hard", "hardest"] = "semi_hard"
    side: Literal["product", "query", "both"] = "both"

    def __post_init__(self) -> None:
        require(self.margin > 0, f"loss.ranking_draw.margin must be above 0, not {self.margin}")


@dataclass(frozen=True)
class MarginConfig:
    """Margins of eSSPR's three hinge losses."""

    ppm: float = 0.3
    pdc: float = 0.2
    plc: float = 0.05


@dataclass(frozen=True)
class AlignLossConfig:
    """Options of the alignment losses: how the words of a title are matched with the patches of its image.

    Attributes:
      matching: `max` lets each patch take its best word; `sinkhorn` spreads them by optimal transport, in which
        a word has room for `capacity` times its even share of patches (LightCLIP).
      temperature: of the attention over words, and of the transport.
      capacity: see `matching`.
      iterations: of Sinkhorn.
    """

    matching: Literal["max", "sinkhorn"] = "max"
    temperature: float = 0.1
    capacity: float = 2.0
    iterations: int = 10

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"loss.align.temperature must be above 0, not {self.temperature}")
        require(self.capacity >= 1, f"loss.align.capacity must be at least 1, not {self.capacity}")
        require(self.iterations >= 1, f"loss.align.iterations must be at least 1, not {self.iterations}")


@dataclass(frozen=True)
class LossConfig:
    """The weight of each term (0 leaves it out), and the options of the families.

    Attributes:
      query_product ... image_product: contrastive terms between two of the query's, title's, image's and product's
        vectors. All six are CommerceMM's grid.
      ranking: triplet ranking of query and product.
      ppm, pdc, plc: eSSPR's hinge unit.
      keywords: the multi-label keyword head on the query (MAKE); keywords_image and keywords_product: the same head's
        vocabulary, predicted from the picture and from the product vector (ours).
      mlm_query, mlm_title: masked words, guessed with the image at hand (IRRA).
      mpm: masked patches, contrasted (MPM_R).
      matching, image_matching: the matching head of query and product, and of query and image.
      align_structure, align_bag: the aligner's losses on a product's own title and image (AlignCMSS, stage C).
      kind: of the contrastive terms: softmax (InfoNCE), am_softmax, sigmoid (SigLIP) or sdm (IRRA).
      margin: of am_softmax.
      scale: where the learned logit scale, 1 / temperature, starts; max_scale bounds it.
      pair_power: each pair counts weight ** pair_power (Marqo GCL); 0 counts all alike.
      keyword_mask: a pair of a query and a product that has all of its words is no negative (MAKE).
      soft_labels: share of a row's target that goes to its negatives by their similarity (LightCLIP), reached linearly
        over the stage.
      same_side: what the logits of same-side negatives are multiplied with (M3EL: 0.8); 0 does without them.
      ring: the contrastive terms go round the ring of devices block by block, and no device ever holds the matrix of
        all pairs: for global batches of many thousands. Other families keep theirs.
      momentum: share of a row's target that comes from the averaged model (ALBEF: up to 0.4); the bank then holds its
        vectors.
    """

    query_product: float = 1.0
    query_title: float = 0.5
    query_image: float = 0.5
    title_image: float = 0.0
    title_product: float = 0.0
    image_product: float = 0.0
    ranking: float = 0.0
    ppm: float = 0.0
    pdc: float = 0.0
    plc: float = 0.0
    keywords: float = 0.0
    keywords_image: float = 0.0
    keywords_product: float = 0.0
    mlm_query: float = 0.0
    mlm_title: float = 0.0
    mpm: float = 0.0
    matching: float = 0.0
    image_matching: float = 0.0
    align_structure: float = 0.0
    align_bag: float = 0.0

    kind: Literal["softmax", "am_softmax", "sigmoid", "sdm"] = "softmax"
    margin: float = 0.1
    scale: float = 14.0
    max_scale: float = 100.0
    pair_power: float = 0.0
    keyword_mask: bool = False
    soft_labels: float = 0.0
    same_side: float = 0.0
    momentum: float = 0.0
    ring: bool = False
    bank: BankConfig = field(default_factory=BankConfig)
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    ranking_draw: RankingConfig = field(default_factory=RankingConfig)
    margins: MarginConfig = field(default_factory=MarginConfig)
    align: AlignLossConfig = field(default_factory=AlignLossConfig)

    def __post_init__(self) -> None:
        weights = self.weights
        low = [name for name, weight in weights.items() if not weight >= 0]
        require(not low, f"loss.{low[0] if low else ''}: a weight must not be negative")
        require(max(weights.values()) > 0, "loss: one weight must be above 0")
        require(0 < self.scale <= self.max_scale, f"loss.scale must lie in (0, max_scale], not {self.scale}")
        require(self.margin >= 0, f"loss.margin must not be negative, not {self.margin}")
        require(self.same_side >= 0, f"loss.same_side must not be negative, not {self.same_side}")
        for name in ("soft_labels", "momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"loss.{name} must lie in [0, 1), not {value}")
        require(
            self.soft_labels + self.momentum < 1,
            f"loss.soft_labels and loss.momentum share a target: their sum must be below 1, not "
            f"{self.soft_labels + self.momentum}",
        )
        special = self.soft_labels or self.same_side or self.momentum or self.bank.size
        require(
            self.kind in ("softmax", "am_softmax") or not special,
            f"loss.kind {self.kind} has no rows to soften or lengthen: soft_labels, same_side, momentum and bank need "
            "softmax or am_softmax",
        )
        softened = self.soft_labels or self.same_side or self.momentum
        require(
            not self.ring or (self.kind != "sdm" and not softened),
            "loss.ring goes with kinds softmax, am_softmax and sigmoid, without soft_labels, same_side and momentum, "
            "which read whole rows of pairs: leave it off, or them",
        )

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term by its name."""
        return {name: getattr(self, name) for name in TERMS}

    def with_weights(self, weights: dict[str, float]) -> "LossConfig":
        """A copy with other weights for the named terms.

        Raises:
          UsageError: there is no such term.
        """
        for name in weights:
            require(name in TERMS, f"stages: no loss term {name!r}, choose from {', '.join(TERMS)}")
        return replace(self, **weights)  # type: ignore[arg-type]  # only weights, which are floats


TERMS = tuple(name for name, kind in LossConfig.__annotations__.items() if kind is float)
TERMS = TERMS[: TERMS.index("align_bag") + 1]
CONTRASTIVE = ("query_product", "query_title", "query_image", "title_image", "title_product", "image_product")

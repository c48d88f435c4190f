"""Everything that decides what a run computes."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import dacite

from maxsearch.config.checks import require
from maxsearch.config.data import DataConfig
from maxsearch.config.loss import LossConfig
from maxsearch.config.model import ModelConfig
from maxsearch.config.training import MeshConfig, OptimConfig, Stage, TrainConfig
from maxsearch.errors import UsageError

KEYWORD_TERMS = ("keywords", "keywords_image", "keywords_product")
MATCHING_TERMS = ("matching", "image_matching")


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
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        require(len(set(names)) == len(names), f"stages: the names {', '.join(names)} repeat, give each its own")
        for number in range(len(self.stages)):
            self.stage(number)
        needed = [name for name in KEYWORD_TERMS if self.uses(name)] + ["keyword_mask"] * self.loss.keyword_mask
        require(
            self.model.keywords > 0 or not needed,
            f"loss.{needed[0] if needed else ''} needs the vocabulary of keywords: set model.keywords, such as 1024",
        )
        self._require_heads()

    def _require_heads(self) -> None:
        """The heads that attend fit the width of the text tower that they read."""
        heads = self.model.head.heads
        for tower, terms in (("query", ("mlm_query", *MATCHING_TERMS)), ("title", ("mlm_title",))):
            width = getattr(self.model, tower).width
            require(
                width % heads == 0 or not self.uses(*terms),
                f"model.head.heads {heads} does not divide the width {width} of model.{tower}, whose words the head "
                "reads: choose a divisor",
            )
        require(
            self.model.head.depth >= 1 or not self.uses(*MATCHING_TERMS),
            "model.head.depth must be at least 1 for loss.matching and loss.image_matching: their blocks compare",
        )

    def stage(self, number: int) -> "Config":
        """The config that holds in one stage; without stages the config itself is the only one.

        Raises:
          UsageError: the stage's weights name no terms.
        """
        if not self.stages:
            return self
        stage = self.stages[number]
        share = stage.steps / sum(stage.steps for stage in self.stages)
        optim = replace(
            self.optim,
            learning_rate=stage.learning_rate or self.optim.learning_rate,
            warmup_steps=round(self.optim.warmup_steps * share),
            groups=stage.groups + self.optim.groups,
        )
        return replace(self, loss=self.loss.with_weights(stage.weights), optim=optim, stages=())

    def uses(self, *terms: str) -> bool:
        """Whether one of these loss terms has a weight in some stage; the model has a term's head when it does."""
        losses = [self.loss.with_weights(stage.weights) for stage in self.stages] or [self.loss]
        return any(loss.weights[term] > 0 for loss in losses for term in terms)

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
        require(isinstance(value, dict), f"{where} holds no config: it must be a JSON object")
        try:
            return dacite.from_dict(cls, value, dacite.Config(strict=True, cast=[tuple, float]))
        except dacite.DaciteError as error:
            raise UsageError(f"{where} does not fit this version of maxsearch: {error}") from None

    def fingerprint(self) -> str:
        """Hex SHA-256 over every value."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

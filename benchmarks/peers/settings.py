"""Which preset both sides train: what they are made to share, and what has no twin in PyTorch."""

from dataclasses import dataclass, replace
from typing import TypeVar

from maxsearch.config import Config, ImageConfig, MeshConfig, TextConfig
from maxsearch.config.loss import CONTRASTIVE
from maxsearch.errors import UsageError

Tower = TypeVar("Tower", TextConfig, ImageConfig)


@dataclass(frozen=True)
class Options:
    """What the PyTorch side may choose.

    Attributes:
      block: open_clip's block: `default` is around nn.MultiheadAttention, `custom` around its own Attention.
      compile_mode: of torch.compile.
      keep_memory: whether its process keeps freed memory as ours does.
    """

    block: str = "default"
    compile_mode: str = "default"
    keep_memory: bool = False


def comparable(
    config: Config, *, layers: int | None = None, batch_size: int | None = None, remat: str = "none"
) -> Config:
    """The preset in float32 on one device, with no tower deeper than `layers`.

    All layers are compiled together (`unroll` 0), as PyTorch runs them, but one by one with remat: XLA's CPU compiler
    takes what a block computes again for what it computed before, and keeps that, when it sees them side by side.

    Raises:
      UsageError: the preset has a part that the PyTorch twin lacks.
    """

    def cut(tower: Tower) -> Tower:
        return tower if layers is None else replace(tower, depth=min(tower.depth, layers))

    model = replace(
        config.model,
        query=cut(config.model.query),
        title=cut(config.model.title),
        image=cut(config.model.image),
        dtype="float32",
        remat=remat,
        unroll=1 if remat == "full" else 0,
    )
    config = replace(
        config,
        model=model,
        data=replace(config.data, batch_size=batch_size or config.data.batch_size),
        mesh=MeshConfig(),
    )
    missing = without_twin(config)
    if missing:
        raise UsageError(
            f"preset {config.name}: {missing[0]} has no twin in benchmarks/peers, choose a preset without it, such as "
            "fashion or base"
        )
    return config


def without_twin(config: Config) -> list[str]:
    """The settings of a config that only our side implements."""
    model, loss = config.model, config.loss
    towers = (model.query, model.title, model.image, model.fusion)
    other = [name for name, weight in loss.weights.items() if weight > 0 and name not in CONTRASTIVE]
    found = {
        f"loss.{other[0] if other else ''}": bool(other),
        f"loss.kind {loss.kind}": loss.kind not in ("softmax", "am_softmax"),
        "loss.keyword_mask": loss.keyword_mask,
        "loss.soft_labels": loss.soft_labels > 0,
        "loss.same_side": loss.same_side > 0,
        "loss.momentum": loss.momentum > 0,
        "loss.ring": loss.ring,
        "loss.bank": loss.bank.size > 0,
        f"model.fusion.kind {model.fusion.kind}": model.fusion.kind != "gated",
        "model.align.visual_words": model.align.visual_words > 0,
        "model.keywords": model.keywords > 0,
        "model.images above 1": model.images > 1,
        "model.texts above 1": model.texts > 1,
        "model.image.stem_blocks": model.image.stem_blocks > 0,
        "model.image.colour_width": model.image.colour_width > 0,
        "dropout": any(tower.dropout > 0 for tower in towers),
        "remat dots": model.remat == "dots",
        "train.microbatches above 1": config.train.microbatches > 1,
        "stages": bool(config.stages),
        "a frozen group of optim.groups": any(group.lr is None for group in config.optim.groups),
    }
    return [name for name, present in found.items() if present]

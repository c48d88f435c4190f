"""One frozen, validated description of a run."""

from maxsearch.config.data import Augment, DataConfig
from maxsearch.config.loss import AlignLossConfig, BankConfig, LossConfig, MarginConfig, MaskedConfig, RankingConfig
from maxsearch.config.model import AlignConfig, FusionConfig, HeadConfig, ImageConfig, ModelConfig, TextConfig
from maxsearch.config.pretrained import ImageSource, TextSource, layer_groups
from maxsearch.config.root import Config
from maxsearch.config.training import MeshConfig, OptimConfig, ParamGroup, Stage, TrainConfig

__all__ = [
    "AlignConfig",
    "AlignLossConfig",
    "Augment",
    "BankConfig",
    "Config",
    "DataConfig",
    "FusionConfig",
    "HeadConfig",
    "ImageConfig",
    "ImageSource",
    "LossConfig",
    "MarginConfig",
    "MaskedConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "ParamGroup",
    "RankingConfig",
    "Stage",
    "TextConfig",
    "TextSource",
    "TrainConfig",
    "layer_groups",
]

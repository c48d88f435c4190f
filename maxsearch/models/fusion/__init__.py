"""The fusion tower: title words and patches become one product vector.

It never sees the query, so that the vector can be indexed. Each kind has a file of its own; all of them are told what
is missing, and what is missing weighs exactly 0.
"""

from flax import nnx

from maxsearch.config import ModelConfig
from maxsearch.models.fusion.concat import ConcatFusion
from maxsearch.models.fusion.cross_attention import CrossAttentionFusion
from maxsearch.models.fusion.gated import GatedFusion
from maxsearch.models.fusion.inputs import Fusion, FusionInputs, Tokens
from maxsearch.models.fusion.modal_adaptation import ModalAdaptationFusion
from maxsearch.models.fusion.nextvlad import NextVladFusion

__all__ = ["KINDS", "Fusion", "FusionInputs", "Tokens", "make_fusion"]

KINDS = {
    "gated": GatedFusion,
    "concat": ConcatFusion,
    "modal_adaptation": ModalAdaptationFusion,
    "cross_attention": CrossAttentionFusion,
    "nextvlad": NextVladFusion,
}


def make_fusion(rngs: nnx.Rngs, model: ModelConfig) -> Fusion:
    """The tower that the config names."""
    fusion: Fusion = KINDS[model.fusion.kind](rngs, model)
    return fusion

"""M3EL, multi-modal entity linking (arXiv 2412.10440).

maxsearch train methods/m3el --data DATA --run RUN

code: an InfoNCE whose rows hold, beside the other side's vectors, those of the same side at weight 0.8, at temperature
0.03, for text and for image; context from the other modality through a tanh gate.
ours: mentions are queries and entities are products; the temperature is learned from there on; the gate is the one of
the cross-attention tower. Matching global with local features needs both sides' tokens, so that products could not be
indexed, and is left out.

Cost: about that of the fashion preset. Result in the small form of configs/ladders/methods.py, 400 steps, seed 0:
nDCG@10 0.850 with full titles, 0.611 with titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig
from maxsearch.presets import load_preset


def get_config() -> Config:
    """The fashion preset with same-side negatives and gated cross-attention."""
    base = load_preset("fashion")
    return replace(
        base,
        name="methods/m3el",
        model=replace(base.model, fusion=replace(base.model.fusion, kind="cross_attention")),
        loss=LossConfig(query_product=1.0, query_title=0.5, query_image=0.5, same_side=0.8, scale=1 / 0.03),
    )

"""CLIP, a symmetric InfoNCE between images and texts with a learned temperature (arXiv 2103.00020).

maxsearch train methods/clip --data DATA --run RUN

code: both directions of the softmax over the batch, the temperature as a parameter that starts at 0.07 and is bounded.
ours: the query has a tower of its own and meets the product, which is title and image end to end through an MLP.

Cost: about that of the fashion preset. Result in the small form of configs/ladders/methods.py, 400 steps, seed 0:
nDCG@10 0.829 with full titles, 0.592 with titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig
from maxsearch.presets import load_preset


def get_config() -> Config:
    """The fashion preset with concatenation and two InfoNCE terms."""
    base = load_preset("fashion")
    return replace(
        base,
        name="methods/clip",
        model=replace(base.model, fusion=replace(base.model.fusion, kind="concat")),
        loss=LossConfig(query_title=0.0, query_image=0.0, title_image=1.0, scale=1 / 0.07),
    )

"""Beyond Text: unified text-image fusion for two-tower retrieval (arXiv 2603.04836).

maxsearch train methods/beyond_text --data DATA --run RUN

said: adaptation to the domain, and alignment in two stages, query with title and query with image first and fusion
after, are both crucial; a fusion network captures what title and image add to one another; naive concatenation does not
work well.
ours: the stage `align` trains the encoders from scratch, so that no other adaptation comes before it, on query-title,
query-image and title-image; `fuse` trains cross-attention both ways on query-product, with the terms before at a tenth
and the encoders at a tenth of the learning rate.

Cost: about that of the fashion preset. Result in the small form of configs/ladders/methods.py, 400 steps, seed 0:
nDCG@10 0.830 with full titles, 0.591 with titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig, ParamGroup, Stage
from maxsearch.presets import load_preset


def get_config() -> Config:
    """The fashion preset with cross-attention, in two stages."""
    base = load_preset("fashion")
    align = Stage(
        "align",
        steps=3,
        weights={"query_product": 0.0, "query_title": 1.0, "query_image": 1.0, "title_image": 1.0},
        groups=(ParamGroup("^fusion/|_to_fusion/", lr=None),),
    )
    fuse = Stage("fuse", steps=2, groups=(ParamGroup("_(encoder|project)/", lr=0.1),))
    return replace(
        base,
        name="methods/beyond_text",
        model=replace(base.model, fusion=replace(base.model.fusion, kind="cross_attention")),
        loss=LossConfig(query_product=1.0, query_title=0.1, query_image=0.1, title_image=0.1),
        stages=(align, fuse),
    )

"""Align before Search, AlignCMSS (arXiv 2309.16141).

maxsearch train methods/aligncmss --data DATA --run RUN

said: an alignment network maps visual parts to words without labels, because co-occurrence is alike in both; alignment
and matching are two separate processes; after alignment everything is matched in one language space. That alignment has
three stages comes from a weak source.
ours: all equations. The stage `adapt` gives features worth aligning; `align` finds a linear map of patches to words
from the two clouds alone, refines it with CSLS and Procrustes, then trains it, and nothing else, on each product's own
title and image; in `fuse` the map is frozen, the eight best visual words of a picture enter the fusion tower among the
title's words, and the encoders that the map was made for move slowly.

Cost: about one and a half times the fashion preset. Result in the small form of configs/ladders/methods.py, 400 steps,
seed 0: nDCG@10 0.830 with full titles, 0.572 with titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig, ParamGroup, Stage
from maxsearch.presets import load_preset

NO_MATCHING = {"query_product": 0.0, "query_title": 0.0, "query_image": 0.0}


def get_config() -> Config:
    """The fashion preset with visual words, in three stages."""
    base = load_preset("fashion")
    model = replace(
        base.model,
        keywords=1024,
        align=replace(base.model.align, visual_words=8),
        fusion=replace(base.model.fusion, kind="modal_adaptation"),
    )
    adapt = Stage(
        "adapt",
        steps=3,
        weights={"query_product": 0.0, "query_title": 1.0, "query_image": 1.0, "title_image": 1.0},
        groups=(ParamGroup("^(aligner|fusion)/|_to_fusion/", lr=None),),
    )
    align = Stage(
        "align",
        steps=1,
        weights={**NO_MATCHING, "align_structure": 1.0, "align_bag": 1.0},
        groups=(ParamGroup("^aligner/", weight_decay=0.0), ParamGroup(".*", lr=None)),
        start="refined",
    )
    fuse = Stage(
        "fuse",
        steps=4,
        groups=(ParamGroup("^aligner/", lr=None), ParamGroup("^(title|image)_encoder/", lr=0.1)),
    )
    return replace(base, name="methods/aligncmss", model=model, loss=LossConfig(), stages=(adapt, align, fuse))

"""MAKE, pre-training for product retrieval in Taobao Search (arXiv 2301.12646).

maxsearch train methods/make --data DATA --run RUN

said: units of query, title and image with three encoders; modal adaptation weighs title against image product by
product; keyword enhancement enriches short queries and counters false negatives; AM-softmax beats softmax; an explicit
match of query and image helps; masked tasks belong in the item tower, and masked patches are contrasted (MPM_R, arXiv
2304.04377).
ours: the equations of modal adaptation; the keyword head on the query, which predicts the clicked product's keywords
that the query lacks, and the mask of pairs whose product has every word of the query; all weights.

Cost: about twice the fashion preset. Result in the small form of configs/ladders/methods.py, 400 steps, seed 0:
nDCG@10 0.873 with full titles, 0.638 with titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig
from maxsearch.presets import load_preset


def get_config() -> Config:
    """The fashion preset with modal adaptation, keyword enhancement and masked patches."""
    base = load_preset("fashion")
    return replace(
        base,
        name="methods/make",
        model=replace(base.model, keywords=1024, fusion=replace(base.model.fusion, kind="modal_adaptation")),
        loss=LossConfig(
            query_product=1.0,
            query_title=0.5,
            query_image=0.5,
            keywords=0.1,
            mpm=0.1,
            kind="am_softmax",
            margin=0.1,
            keyword_mask=True,
        ),
    )

"""eSSPR, same-style product retrieval (arXiv 2302.05093).

maxsearch train methods/esspr --data DATA --run RUN

code: hinge losses on cosines between title, image and fused vectors: PPM of any of them with the other product's fused
vector, PDC with the same product's, PLC of the distances of the best ten; margins 0.3, 0.2 and 0.05. The weights 0.8,
0.5 and 0.5 come from a later repository of the same author.
ours: a query stands for a product of which only the text is known, beside the pairs of products that share a variant
group or a query; the six terms of CommerceMM's grid (arXiv 2202.07247) of query, title, image and product are added.

Cost: about that of the fashion preset. Result in the small form of configs/ladders/methods.py, 400 steps, seed 0:
nDCG@10 0.848 with full titles, 0.624 with titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig, MarginConfig
from maxsearch.presets import load_preset


def get_config() -> Config:
    """The fashion preset with the hinge unit and the whole grid."""
    return replace(
        load_preset("fashion"),
        name="methods/esspr",
        loss=LossConfig(
            query_product=1.0,
            query_title=0.5,
            query_image=0.5,
            title_image=0.5,
            title_product=0.5,
            image_product=0.5,
            ppm=0.8,
            pdc=0.5,
            plc=0.5,
            margins=MarginConfig(ppm=0.3, pdc=0.2, plc=0.05),
        ),
    )

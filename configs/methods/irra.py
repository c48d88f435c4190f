"""IRRA (arXiv 2303.12501).

maxsearch train methods/irra --data DATA --run RUN

code: SDM, the KL divergence of the batch's similarities at temperature 0.02 from its labels, in both directions; masked
words that cross-attend to the image's tokens through an interaction head; 15 % of the words are masked, 80/10/10.
ours: the temperature is learned from there on; SDM stands between query, title, image and product, where IRRA has one
text and one image; the head is one block deep, and IRRA's identity loss is left out, since products have no classes.

Cost: about twice the fashion preset. Result in the small form of configs/ladders/methods.py, 400 steps, seed 0:
nDCG@10 0.808 with full titles, 0.423 with titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig, MaskedConfig
from maxsearch.presets import load_preset


def get_config() -> Config:
    """The fashion preset with SDM and masked words."""
    return replace(
        load_preset("fashion"),
        name="methods/irra",
        loss=LossConfig(
            query_product=1.0,
            query_title=0.5,
            query_image=0.5,
            mlm_query=0.1,
            mlm_title=0.1,
            kind="sdm",
            scale=1 / 0.02,
            masked=MaskedConfig(words=0.15),
        ),
    )

"""What served best on the fashion catalogue, from the methods beside it.

maxsearch train methods/best --data DATA --run RUN

MAKE's keyword mask (arXiv 2301.12646), keywords read off the picture and a contrast of title and picture, colours and
residual blocks in the image stem, and text towers that learn at a quarter of the rate: at the full rate they know the
catalogue's words by heart after three epochs, while the image tower still learns (all but the mask ours).

Cost: 20 minutes on one core; half of it gives as much. Result, seed 0: nDCG@10 0.886 with full titles, 0.711 with
titles that leave out colour and article type (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, LossConfig, ParamGroup
from maxsearch.presets import load_preset


def get_config() -> Config:
    """The fashion preset with a deeper image stem, more to learn from pictures, and slow text."""
    base = load_preset("fashion")
    image = replace(base.model.image, stem_blocks=2, colour_width=128)
    return replace(
        base,
        name="methods/best",
        model=replace(base.model, keywords=1024, image=image),
        loss=LossConfig(title_image=0.2, keywords_image=0.2, keyword_mask=True),
        optim=replace(base.optim, groups=(ParamGroup("^(query|title)_encoder/", lr=0.25), *base.optim.groups)),
        train=replace(base.train, steps=1600, checkpoint_every=200, keep_checkpoints=8),
    )

"""The fashion preset with smaller towers and batches, for ablations of many runs.

maxsearch train fashion_small --data DATA --run RUN

Cost: about a minute and a half on one core. Result: docs/results.md
"""

from dataclasses import replace

from maxsearch.config import Config
from maxsearch.presets import load_preset


def get_config() -> Config:
    """A model of about 2M parameters, and a little less than one pass over the clicks."""
    base = load_preset("fashion")
    model = replace(
        base.model,
        query=replace(base.model.query, width=128, max_tokens=8),
        title=replace(base.model.title, width=128),
        image=replace(base.model.image, stem_width=32, width=128, depth=1),
    )
    return replace(
        base,
        name="fashion_small",
        model=model,
        data=replace(base.data, batch_size=128),
        optim=replace(base.optim, warmup_steps=50),
        train=replace(base.train, steps=400, log_every=50, checkpoint_every=400),
    )

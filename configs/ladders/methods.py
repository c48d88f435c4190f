"""Every method preset on a real fashion catalogue, in the small form of the fashion preset, against that form itself.

maxsearch ablate methods --data DATA --products products.dev.parquet --queries queries.dev.csv --qrels qrels.dev.tsv \
    --out OUT

once per title column: DATA is prepared with --map title=COLUMN, and the command takes the same --map.

Cost: some 25 minutes per seed and column on one core. Result, seed 0: docs/results.md, "The published methods".
"""

from dataclasses import replace

from maxsearch.ablation.ladder import Rung
from maxsearch.config import Config
from maxsearch.presets import load_preset, preset_names

PLAIN = "plain"


def get_ladder() -> list[Rung]:
    """The small preset as it is, then in it the losses, the fusion and the stages of each method."""
    methods = [name for name in preset_names() if name.startswith("methods/")]
    plain = Rung(PLAIN, load_preset("fashion_small"), against="")
    return [plain, *(Rung(name.removeprefix("methods/"), small(load_preset(name)), against=PLAIN) for name in methods)]


def small(config: Config) -> Config:
    """A method preset with the towers, batches and steps of the small preset."""
    towers = load_preset("fashion_small")
    own = config.model.image
    image = replace(towers.model.image, stem_blocks=own.stem_blocks, colour_width=own.colour_width)
    model = replace(config.model, query=towers.model.query, title=towers.model.title, image=image)
    optim = replace(towers.optim, groups=config.optim.groups)
    return replace(config, model=model, data=towers.data, optim=optim, train=towers.train)

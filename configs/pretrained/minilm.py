"""Text towers that begin with all-MiniLM-L6-v2 (22M parameters, Apache-2.0), our image tower from scratch.

maxsearch train pretrained/minilm --data DATA --run RUN

The model is fetched from the Hub. --model.query.pretrained FOLDER --model.title.pretrained FOLDER take another one of
BERT's kind. Cost and result: docs/results.md.
"""

from dataclasses import replace

from maxsearch.config import Config, OptimConfig, TextConfig, TextSource, layer_groups
from maxsearch.presets import load_preset

NAME = "sentence-transformers/all-MiniLM-L6-v2"
SOURCE = TextSource(name=NAME, family="bert", hidden=1536, activation="gelu", epsilon=1e-12, positions=512, types=2)


def get_config() -> Config:
    """The lowest layers stay as they are, the others learn at a tenth of the rate of what is new."""
    fashion = load_preset("fashion")
    text = TextConfig(pretrained=NAME, source=SOURCE, width=384, depth=6, heads=12, max_tokens=16)
    groups = (
        *layer_groups("query_encoder", 6, 1.0, lr=0.1, frozen=4),
        *layer_groups("title_encoder", 6, 1.0, lr=0.1, frozen=4),
        *OptimConfig().groups,
    )
    return replace(
        fashion,
        name="pretrained/minilm",
        model=replace(fashion.model, dim=384, vocab_size=30522, query=text, title=text),
        data=replace(fashion.data, max_padding=0.2),
        optim=replace(fashion.optim, groups=groups),
    )

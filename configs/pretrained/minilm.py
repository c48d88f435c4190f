"""Text towers that begin with all-MiniLM-L6-v2 (22M parameters), and the image tower of `fashion` from scratch.

maxsearch train pretrained/minilm --data DATA --run RUN

The model is fetched from the Hub; --model.query.pretrained FOLDER --model.title.pretrained FOLDER name a local copy, or
another model of BERT's kind. Cost: about six times that of `fashion` per example on one CPU core. Result: in
20 minutes on a crowded core nDCG@10 0.839, below the 0.878 of `fashion` in the same time (docs/results.md).
"""

from dataclasses import replace

from maxsearch.config import Config, OptimConfig, TextConfig, TextSource, layer_groups
from maxsearch.presets import load_preset

NAME = "sentence-transformers/all-MiniLM-L6-v2"
SOURCE = TextSource(name=NAME, family="bert", hidden=1536, activation="gelu", epsilon=1e-12, positions=512, types=2)


def get_config() -> Config:
    """Embeddings and the lowest four layers stay as they are; the last two learn at a tenth of the others' rate."""
    fashion = load_preset("fashion")
    text = TextConfig(pretrained=NAME, source=SOURCE, width=384, depth=6, heads=12, max_tokens=8)
    towers = [layer_groups(f"{name}_encoder", 6, 1.0, lr=0.1, frozen=4) for name in ("query", "title")]
    return replace(
        fashion,
        name="pretrained/minilm",
        model=replace(fashion.model, dim=384, vocab_size=30522, query=text, title=replace(text, max_tokens=14)),
        data=replace(fashion.data, batch_size=128),
        optim=replace(
            fashion.optim, learning_rate=2e-3, warmup_steps=10, groups=(*towers[0], *towers[1], *OptimConfig().groups)
        ),
    )

"""A real fashion catalogue: 29,642 products with thumbnails of 60 x 80 pixels, 53,658 clicks, two cores.

maxsearch train fashion --data DATA --run RUN

Cost: about five minutes. Result, mean of three seeds: nDCG@10 0.883 with full titles, 0.691 with titles that leave out
colour and article type (docs/results.md).
"""

from maxsearch.config import (
    Augment,
    Config,
    DataConfig,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    OptimConfig,
    TextConfig,
    TrainConfig,
)


def get_config() -> Config:
    """A model of about 3.5M parameters; titles and queries are bags of words, which beat deeper towers at this size."""
    text = TextConfig(width=256, depth=0, max_tokens=16)
    return Config(
        name="fashion",
        model=ModelConfig(
            dim=256,
            vocab_size=4096,
            query=text,
            title=text,
            image=ImageConfig(size=(64, 48), patch=16, stem="conv", stem_width=48, width=192, depth=2),
            fusion=FusionConfig(width=128),
        ),
        data=DataConfig(batch_size=256, augment=Augment()),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100, ema_decay=0.998),
        train=TrainConfig(steps=800, log_every=20, checkpoint_every=200),
    )

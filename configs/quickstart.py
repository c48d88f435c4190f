"""The catalogue that `maxsearch quickstart` draws: 2,250 training products, 31,000 clicks.

maxsearch train quickstart --data quickstart/data --run quickstart/run

Cost: about two minutes on two cores. Result: docs/results.md.
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
    """A model of about 2M parameters that learns on two cores in minutes."""
    text = TextConfig(width=128, depth=0, max_tokens=16)
    return Config(
        name="quickstart",
        model=ModelConfig(
            dim=128,
            vocab_size=2048,
            query=text,
            title=text,
            image=ImageConfig(size=(64, 64), patch=16, stem="conv", stem_width=48, width=192, depth=2),
            fusion=FusionConfig(width=128),
        ),
        data=DataConfig(batch_size=256, augment=Augment(scale=(0.8, 1.0), title_word_drop=0.15)),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=50, ema_decay=0.995),
        train=TrainConfig(steps=400, log_every=20, checkpoint_every=200),
    )

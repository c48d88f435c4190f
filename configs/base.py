"""A CLIP-sized start for a catalogue of millions: BERT-base query and title towers and a ViT-B/16, in bfloat16.

maxsearch train base --data DATA --run RUN
maxsearch plan base --topology v5e:2x4

Cost and memory: docs/scaling.md.
"""

from maxsearch.config import (
    Augment,
    Config,
    DataConfig,
    FusionConfig,
    ImageConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    TextConfig,
    TrainConfig,
)


def get_config() -> Config:
    """About 200M parameters."""
    text = TextConfig(width=512, depth=12, heads=8, max_tokens=64)
    return Config(
        name="base",
        model=ModelConfig(
            dim=512,
            vocab_size=32768,
            query=text,
            title=text,
            image=ImageConfig(size=(224, 224), patch=16, width=768, depth=12, heads=12),
            fusion=FusionConfig(width=512, depth=2, heads=8),
            dtype="bfloat16",
            remat="full",
            unroll=1,
        ),
        data=DataConfig(batch_size=4096, workers=8, threads=2, prefetch=8, augment=Augment(scale=(0.5, 1.0))),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=2000, weight_decay=0.1, ema_decay=0.9999),
        mesh=MeshConfig(replica=-1, fsdp=8, tensor=1),
        train=TrainConfig(steps=100_000, log_every=50, checkpoint_every=2000),
    )

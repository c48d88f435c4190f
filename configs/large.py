"""A tower of 24 layers for each of query, title and image, for catalogues of hundreds of millions.

maxsearch train large --data DATA --run RUN
maxsearch plan large --topology v5p:4x4x4

Cost and memory: docs/scaling.md. Result: never trained, only compiled.
"""

from dataclasses import replace

from maxsearch.config import Config, FusionConfig, ImageConfig, MeshConfig, TextConfig
from maxsearch.presets import load_preset


def get_config() -> Config:
    """About 1B parameters, for v5p-128 (64 chips) to v5p-1024 (512)."""
    base = load_preset("base")
    text = TextConfig(width=1024, depth=24, heads=16, max_tokens=64)
    model = replace(
        base.model,
        dim=768,
        vocab_size=65536,
        query=text,
        title=text,
        image=ImageConfig(size=(224, 224), patch=14, width=1024, depth=24, heads=16),
        fusion=FusionConfig(width=768, depth=4, heads=12),
    )
    return replace(
        base,
        name="large",
        model=model,
        loss=replace(base.loss, ring=True),
        data=replace(base.data, batch_size=65536),
        optim=replace(base.optim, learning_rate=4e-4, warmup_steps=5000),
        mesh=MeshConfig(replica=-1, fsdp=16),
    )

"""Towers of 36 to 40 layers, as large as a pod slice of thousands of chips feeds.

maxsearch train giant --data DATA --run RUN
maxsearch plan giant --topology v5p:8x16x16

Cost and memory: docs/scaling.md. Result: never trained, only compiled.
"""

from dataclasses import replace

from maxsearch.config import Config, FusionConfig, ImageConfig, MeshConfig, TextConfig
from maxsearch.presets import load_preset


def get_config() -> Config:
    """About 3.4B parameters, for v5p-4096 (2,048 chips)."""
    large = load_preset("large")
    text = TextConfig(width=1536, depth=36, heads=16, max_tokens=64)
    model = replace(
        large.model,
        dim=1024,
        vocab_size=131072,
        remat="dots",
        query=text,
        title=text,
        image=ImageConfig(size=(224, 224), patch=14, width=1408, depth=40, heads=16),
        fusion=FusionConfig(width=1024, depth=6, heads=16),
    )
    return replace(
        large,
        name="giant",
        model=model,
        data=replace(large.data, batch_size=131072),
        optim=replace(large.optim, learning_rate=3e-4, warmup_steps=10_000),
        mesh=MeshConfig(replica=-1, fsdp=16),
    )

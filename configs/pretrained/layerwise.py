"""A whole CLIP that goes on learning, its layers the slower, the lower they lie (layer-wise decay; BEiT, ELECTRA).

maxsearch train pretrained/layerwise --data DATA --run RUN

All three towers begin with CLIP ViT-B/32 from the Hub and its projections, so that queries, titles and pictures lie in
one space from the first step; --model.query.pretrained, --model.title.pretrained and --model.image.pretrained name
another CLIP or SigLIP. Cost and result: never trained; its step is checked on eight simulated devices.
"""

from dataclasses import replace

from maxsearch.config import Config, ImageConfig, ImageSource, OptimConfig, TextConfig, TextSource, layer_groups
from maxsearch.presets import load_preset

NAME = "openai/clip-vit-base-patch32"
CLIP = {"name": NAME, "family": "clip", "activation": "quick_gelu", "epsilon": 1e-5, "projection": 512}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DECAY = 0.7


def get_config() -> Config:
    """The base preset with CLIP's towers: the last layers learn at 1e-4, each one below at 0.7 of it."""
    base = load_preset("base")
    text = TextConfig(
        pretrained=NAME,
        pool="source",
        source=TextSource(hidden=2048, positions=77, **CLIP),  # type: ignore[arg-type]
        width=512,
        depth=12,
        heads=8,
        max_tokens=32,
    )
    image = ImageConfig(
        pretrained=NAME,
        pool="source",
        source=ImageSource(hidden=3072, mean=MEAN, std=STD, **CLIP),  # type: ignore[arg-type]
        size=(224, 224),
        patch=32,
        width=768,
        depth=12,
        heads=12,
    )
    groups = [layer_groups(f"{name}_encoder", 12, DECAY) for name in ("query", "title", "image")]
    return replace(
        base,
        name="pretrained/layerwise",
        model=replace(base.model, dim=512, vocab_size=49408, query=text, title=text, image=image, unroll=0),
        data=replace(base.data, batch_size=1024),
        optim=replace(
            base.optim, learning_rate=1e-4, groups=(*groups[0], *groups[1], *groups[2], *OptimConfig().groups)
        ),
    )

"""LiT (arXiv 2111.07991): text towers learn to read a pretrained image tower, which stays as it is.

maxsearch train pretrained/lit --data DATA --run RUN

The image tower is SigLIP 2's of 87M parameters, fetched from the Hub; --model.image.pretrained names another source, a
CLIP, a SigLIP or a ViT. It keeps no moments and needs no backward pass, so that a step costs little more than the
forward pass of the pictures. Text towers are ours, from scratch; pretrained ones are a flag away. Cost and result:
never trained on a real catalogue, only tested on a drawn one with a small tower.
"""

from dataclasses import replace

from maxsearch.config import Augment, Config, ImageConfig, ImageSource, OptimConfig, ParamGroup
from maxsearch.presets import load_preset

NAME = "google/siglip2-base-patch16-224"
SOURCE = ImageSource(name=NAME, family="siglip", hidden=3072, activation="gelu_tanh", epsilon=1e-6)


def get_config() -> Config:
    """The fashion preset's text towers beside a locked image tower, whose own head pools."""
    fashion = load_preset("fashion")
    image = ImageConfig(
        pretrained=NAME, source=SOURCE, pool="source", size=(224, 224), patch=16, width=768, depth=12, heads=12
    )
    return replace(
        fashion,
        name="pretrained/lit",
        model=replace(fashion.model, image=image),
        # A locked tower sees each picture once, as its source did: nothing learns from a changed one.
        data=replace(fashion.data, augment=Augment(flip=False, scale=(1.0, 1.0), ratio=(1.0, 1.0))),
        optim=replace(
            fashion.optim, learning_rate=1e-3, groups=(ParamGroup("^image_encoder/", lr=None), *OptimConfig().groups)
        ),
    )

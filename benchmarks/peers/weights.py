"""Our parameters under the twin's names, and in its layouts.

L layers, D width, H heads, K key size, F hidden.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from maxsearch.config import Config, OptimConfig
from maxsearch.errors import MaxsearchError
from maxsearch.training.optim import group_of

BLOCKS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "attention_scale": ("ln_1.weight", lambda x: x),
    "attention_bias": ("ln_1.bias", lambda x: x),
    "qkv": ("attn.in_proj_weight", lambda x: x.reshape(len(x), -1).T),  # [D, 3, H, K] to [3 H K, D]
    "out": ("attn.out_proj.weight", lambda x: x.reshape(-1, x.shape[-1]).T),  # [H, K, D] to [D, H K]
    "mlp_scale": ("ln_2.weight", lambda x: x),
    "mlp_bias": ("ln_2.bias", lambda x: x),
    "up": ("mlp.c_fc.weight", lambda x: x.T),
    "down": ("mlp.c_proj.weight", lambda x: x.T),
}
RENAMED = {"kernel": "weight", "scale": "weight", "embedding": "embedding.weight"}


class Leaf(NamedTuple):
    """A parameter of the twin: its value, and the path of ours that it is, or is a layer of."""

    value: np.ndarray
    path: str


def twin_leaves(params: Mapping[str, np.ndarray], config: Config) -> dict[str, Leaf]:
    """Our parameters (or their gradients) by the twin's names.

    Args:
      params: arrays by path, such as `query_encoder/blocks/qkv`.
      config: of the model.
    """
    leaves: dict[str, Leaf] = {}
    for path, value in params.items():
        *parents, last = path.split("/")
        where = ".".join(parents)
        if parents and parents[-1] == "blocks":
            name, layout = BLOCKS[last]
            for layer, weights in enumerate(value):
                leaves[f"{where}.layers.resblocks.{layer}.{name}"] = Leaf(layout(weights), path)
        else:
            name = ".".join([*parents, RENAMED.get(last, last)])
            leaves[name] = Leaf(arranged(path, value, config), path)
    return {name: Leaf(np.array(leaf.value, order="C"), leaf.path) for name, leaf in leaves.items()}


def arranged(path: str, value: np.ndarray, config: Config) -> np.ndarray:
    """A parameter outside the blocks in the layout of PyTorch's module."""
    image = config.model.image
    if path == "image_encoder/position" and image.stem == "conv":
        return value[::-1]  # both axes of the grid, laid end to end, mirrored
    if not path.endswith("/kernel"):
        return value
    if path == "image_encoder/stem/project/kernel" and image.stem == "patch":
        value = value.reshape(image.patch, image.patch, 3, image.width)
    elif value.ndim == 4:
        value = value[::-1, ::-1]
    return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def twin_batch(batch: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """The batch as the twin reads it: the same arrays, the pictures mirrored both ways where ConvStem wants it."""
    if config.model.image.stem != "conv":
        return dict(batch)
    return {**batch, "image": np.ascontiguousarray(batch["image"][:, :, ::-1, ::-1])}


def group_settings(leaves: Mapping[str, Leaf], config: OptimConfig) -> dict[str, tuple[float, float]]:
    """Factor of the learning rate, and weight decay, of every parameter of the twin."""
    settings = {}
    for name, leaf in leaves.items():
        group = group_of(leaf.path, config.groups)
        assert group.lr is not None, "comparable() lets no frozen group through"
        settings[name] = (group.lr, config.weight_decay if group.weight_decay is None else group.weight_decay)
    return settings


def check_same_parameters(leaves: Mapping[str, Leaf], twin: Mapping[str, tuple[int, ...]]) -> int:
    """How many numbers both sides learn.

    Args:
      leaves: ours.
      twin: shape of every parameter of the twin.

    Raises:
      MaxsearchError: one side has a parameter, or a shape, that the other lacks.
    """
    ours = {name: leaf.value.shape for name, leaf in leaves.items()}
    odd = sorted(name for name in ours.keys() | twin.keys() if ours.get(name) != tuple(twin.get(name, (-1,))))
    if odd:
        raise MaxsearchError(
            f"parameter {odd[0]} has shape {ours.get(odd[0])} in our model and {twin.get(odd[0])} in the PyTorch twin: "
            "mend benchmarks/peers/twin.py or weights.py so that both count the same"
        )
    return sum(leaf.value.size for leaf in leaves.values())

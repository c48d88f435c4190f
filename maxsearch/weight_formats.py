"""Weights in fewer bytes: matrices as bfloat16, or as int8 with a scale per output channel; read back as float32.

A parameter is a matrix when INPUT_AXES names it. Norms, biases and null tokens are small, and stay as they are.
"""

from collections.abc import Mapping
from typing import Literal

import ml_dtypes
import numpy as np

WeightFormat = Literal["float32", "bfloat16", "int8"]
FORMATS: tuple[WeightFormat, ...] = ("float32", "bfloat16", "int8")

SCALE = ":scale"
LEVELS = 127

INPUT_AXES: Mapping[str, tuple[int, ...]] = {
    "embedding": (-1,),  # a row per token: one rare long row must not coarsen the others
    "position": (-1,),
    "qkv": (-4,),
    "query": (-3,),
    "key_value": (-4,),
    "out": (-3, -2),
    "up": (-2,),
    "down": (-2,),
    "expand": (-3,),
    "attend": (-3, -2),
    "assign": (-4, -3),
    "centers": (-1,),
    "project": (-3, -2),
    "squeeze": (-2,),
    "excite": (-2,),
}
"""By a parameter's own name, the axes that one scale spans; what is left are its output channels, or its rows."""


def input_axes(name: str, value: np.ndarray) -> tuple[int, ...]:
    """The axes of a parameter that share a scale; empty for one that is no matrix."""
    leaf = name.rpartition("/")[2]
    if leaf == "kernel":
        return tuple(range(value.ndim - 1))
    return INPUT_AXES.get(leaf, ()) if value.dtype == np.float32 else ()


def packed(flat: Mapping[str, np.ndarray], kind: WeightFormat) -> dict[str, np.ndarray]:
    """The arrays to write: matrices in the format, and beside each int8 one its scales as `NAME:scale`.

    Args:
      flat: float32 parameters by their paths.
      kind: the format. int8 is symmetric: w is about q * scale with q from -127 to 127 and scale = max |w| / 127.
    """
    if kind == "float32":
        return dict(flat)
    arrays: dict[str, np.ndarray] = {}
    for name, value in flat.items():
        axes = input_axes(name, value)
        if not axes:
            arrays[name] = value
        elif kind == "bfloat16":
            arrays[name] = value.astype(ml_dtypes.bfloat16)
        else:
            scale = np.abs(value).max(axis=axes, keepdims=True) / np.float32(LEVELS)
            arrays[name] = np.rint(value / np.where(scale == 0, 1, scale)).astype(np.int8)
            arrays[name + SCALE] = scale
    return arrays


def unpacked(arrays: Mapping[str, np.ndarray], kind: WeightFormat) -> dict[str, np.ndarray]:
    """Reverses `packed` but for what rounding lost: every matrix is float32 again."""
    if kind == "float32":
        return dict(arrays)
    flat: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if name.endswith(SCALE):
            continue
        if value.dtype == np.int8:
            flat[name] = value.astype(np.float32) * arrays[name + SCALE]
        else:
            flat[name] = value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value
    return flat

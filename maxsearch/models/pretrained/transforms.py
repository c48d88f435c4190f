"""How arrays of other libraries' files become ours, and back: transposed, fused, cut into heads.

D width, O outputs, H heads, K key size, n edge of a patch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["same", "linear", "stem", "qkv", "qkv_bias", "fused", "fused_bias", "out", "first", "places"]
Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Part:
    """One of our parameters, and the arrays of a file that it comes from.

    Attributes:
      ours: path within the tower.
      theirs: names in the file, behind the tower's own prefix.
      kind: how they are turned into ours.
    """

    ours: str
    theirs: tuple[str, ...]
    kind: Kind = "same"


def to_ours(kind: Kind, arrays: Arrays, heads: int) -> np.ndarray:
    """Our array of theirs.

    Args:
      kind: of the part.
      arrays: in the order of `Part.theirs`.
      heads: H of the tower.

    Raises:
      ValueError: their shapes are not those of the kind.
    """
    return TO_OURS[kind](arrays, heads)


def to_theirs(kind: Kind, array: np.ndarray, patch: int) -> list[np.ndarray]:
    """Reverses `to_ours`; `patch` is n."""
    return TO_THEIRS[kind](array, patch)


def cut_heads(matrix: np.ndarray, heads: int) -> np.ndarray:
    """[O, D] of a torch linear layer as [D, H, K]."""
    return matrix.T.reshape(matrix.shape[1], heads, -1)


def join_heads(array: np.ndarray) -> np.ndarray:
    """Reverses `cut_heads`."""
    return array.reshape(len(array), -1).T


TO_OURS: dict[Kind, Callable[[Arrays, int], np.ndarray]] = {
    "same": lambda a, H: a[0],
    "linear": lambda a, H: a[0].T,
    "stem": lambda a, H: a[0].transpose(2, 3, 1, 0).reshape(-1, len(a[0])),  # [D, 3, n, n]
    "qkv": lambda a, H: np.stack([cut_heads(x, H) for x in a], axis=1),
    "qkv_bias": lambda a, H: np.stack([x.reshape(H, -1) for x in a]),
    "fused": lambda a, H: np.stack([cut_heads(x, H) for x in np.split(a[0], 3)], axis=1),
    "fused_bias": lambda a, H: a[0].reshape(3, H, -1),
    "out": lambda a, H: a[0].T.reshape(H, -1, len(a[0])),
    "first": lambda a, H: a[0].reshape(a[0].shape[-1]),  # [1, 1, D]
    "places": lambda a, H: a[0].reshape(a[0].shape[-2:]),  # [1, N, D]
}
TO_THEIRS: dict[Kind, Callable[[np.ndarray, int], list[np.ndarray]]] = {
    "same": lambda x, n: [x],
    "linear": lambda x, n: [x.T],
    "stem": lambda x, n: [x.reshape(n, n, 3, -1).transpose(3, 2, 0, 1)],
    "qkv": lambda x, n: [join_heads(x[:, part]) for part in range(3)],
    "qkv_bias": lambda x, n: [part.reshape(-1) for part in x],
    "fused": lambda x, n: [np.concatenate([join_heads(x[:, part]) for part in range(3)])],
    "fused_bias": lambda x, n: [x.reshape(-1)],
    "out": lambda x, n: [x.reshape(-1, x.shape[-1]).T],
    "first": lambda x, n: [x[None, None]],
    "places": lambda x, n: [x[None]],
}

"""Learned positions for another number of places: cut, drawn out, or resampled over the grid of a picture.

N places, D width.
"""

import math

import cv2
import numpy as np

from maxsearch.errors import UsageError


def resized_text(table: np.ndarray, places: int) -> np.ndarray:
    """Positions of a text, [places, D]: the first ones, or, where more are wanted than there are, drawn out linearly.

    Args:
      table: [N, D].
      places: how many rows are wanted.
    """
    if places <= len(table):
        return table[:places]
    wanted = np.linspace(0, len(table) - 1, places)
    return np.stack([np.interp(wanted, np.arange(len(table)), column) for column in table.T], axis=1)


def resized_grid(table: np.ndarray, grid: tuple[int, int], first: int, where: str) -> np.ndarray:
    """Positions of a picture, [first + rows x columns, D], by bicubic interpolation over its grid.

    Args:
      table: [first + n x n, D] of a square picture.
      grid: (rows, columns) that are wanted.
      first: rows for class tokens, which stay.
      where: names the source, for the message.

    Raises:
      UsageError: the source's grid is not square.
    """
    head, patches = table[:first], table[first:]
    edge = math.isqrt(len(patches))
    if edge * edge != len(patches):
        raise UsageError(f"{where} has {len(patches)} positions, no square grid, which cannot be resized to {grid}")
    rows, columns = grid
    if rows == columns == edge:
        return table
    square = patches.reshape(edge, edge, -1).astype(np.float32)
    # Plane by plane: cv2 interpolates a few channels at a time only.
    planes = [
        cv2.resize(np.ascontiguousarray(square[..., i]), (columns, rows), interpolation=cv2.INTER_CUBIC)
        for i in range(square.shape[-1])
    ]
    return np.concatenate([head, np.stack(planes, axis=-1).reshape(rows * columns, -1)])

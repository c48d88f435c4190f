"""How much title and image weigh in the product vectors, by an attribute of the catalogue such as its category."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from maxsearch.data.tables.read import Columns, column_names, several, suggestion
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class WeightRow:
    """The mean weights of the products that share one value.

    Attributes:
      value: of the attribute; empty for products that have none.
      products: how many there are.
      title, image: mean weights over all of them; they sum to 1. A product without one modality counts with its 0.
    """

    value: str
    products: int
    title: float
    image: float


def weights_by(weights: Float[np.ndarray, "n 2"], values: Sequence[str]) -> list[WeightRow]:
    """Mean modality weights by value, the value of most products first.

    Args:
      weights: how much title and image weigh in each product's vector.
      values: the attribute of each product.
    """
    names, group, counts = np.unique(np.array(values, dtype=object), return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(group, weights[:, column], len(names)) for column in (0, 1)], axis=1)
    means = sums / counts[:, None]
    order = sorted(range(len(names)), key=lambda number: (-counts[number], names[number]))
    return [WeightRow(names[i], int(counts[i]), float(means[i, 0]), float(means[i, 1])) for i in order]


def require_attribute(path: Path, columns: Columns, attribute: str, *, flag: str) -> None:
    """Checks before anything is embedded that a products file has the attribute, where the format names its columns.

    Args:
      path: the products file.
      columns: the column, or columns, of each product field, which are no attributes.
      attribute: the column that the flag names.
      flag: for the messages ("--weights-by").

    Raises:
      UsageError: there is no such column, or it is a field of the product.
    """
    taken = {column for name in columns for column in several(columns, name)}
    names = column_names(path)
    if attribute in taken:
        raise UsageError(f"{flag} {attribute} is a field of the product and no attribute: name another column")
    if names is not None and attribute not in names:
        raise UsageError(
            f"{flag}: the products file {path} has no column {attribute!r}: {suggestion(attribute, names)}"
        )

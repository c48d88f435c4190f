"""Which rows a filter keeps, as a mask that is computed once per filter and set of columns."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from jaxtyping import Int64

from maxsearch.serving.filters.column_types import Coded, Mask, Numbers
from maxsearch.serving.filters.columns import Columns
from maxsearch.serving.filters.tree import And, Exists, In, Node, Not, Or, Prefix, Range

CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class Selection:
    """The rows that may be returned.

    Attributes:
      mask: one truth value per row.
    """

    mask: Mask

    @cached_property
    def count(self) -> int:
        """How many rows there are."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> Int64[np.ndarray, " n"]:
        """The rows, ascending."""
        return np.flatnonzero(self.mask)


def matches(node: Node, columns: Columns, *, negated: bool = False) -> Mask:
    """Rows for which a filter is true, or, negated, those for which it is false.

    A row for which it is unknown is in neither (see `tree`): NOT is carried inwards by De Morgan's laws, and the
    complement of a condition is taken among the rows whose value is known.

    Args:
      node: the filter; its fields and values fit the columns (`parse_filter` has checked that).
      columns: the attributes.
      negated: whether the rows are wanted for which it is false.
    """
    match node:
        case And(children) | Or(children):
            parts = [matches(child, columns, negated=negated) for child in children]
            return reduce(np.logical_and if isinstance(node, And) != negated else np.logical_or, parts)
        case Not(child):
            return matches(child, columns, negated=not negated)
        case Exists(name):
            known = columns[name].known()
            return ~known if negated else known
    found = _condition(node, columns)
    return columns[node.field].known() & ~found if negated else found


def _condition(node: In | Range | Prefix, columns: Columns) -> Mask:
    column = columns[node.field]
    match node:
        case In(_, values):
            return column.any_of(values)
        case Range(_, low, high):
            assert isinstance(column, Numbers)
            return column.between(low, high)
        case Prefix(_, path):
            assert isinstance(column, Coded)
            return column.beginning_with(path)


class MaskCache:
    """Masks by filter and set of columns, the least recently used one dropped first. Safe for several threads.

    Args:
      max_bytes: of all masks together.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._masks: OrderedDict[tuple[str, Node], Mask] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str, node: Node, columns: Columns) -> Mask:
        """The mask of a filter, computed when it is not there. It is shared: never write to it.

        Args:
          key: identifies the columns' content, such as a generation.
          node: the filter.
          columns: the attributes.
        """
        with self._lock:
            mask = self._masks.get((key, node))
            if mask is not None:
                self._masks.move_to_end((key, node))
                return mask
        mask = matches(node, columns)
        mask.setflags(write=False)
        with self._lock:
            if mask.nbytes <= self._max_bytes and (key, node) not in self._masks:
                self._masks[key, node] = mask
                self._bytes += mask.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._masks.popitem(last=False)[1].nbytes
        return mask

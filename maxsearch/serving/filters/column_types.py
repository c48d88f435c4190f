"""Columns in memory, each answering the conditions that its type has with a mask over all rows.

A value that few rows have is looked up in a list of its rows, one that many have is found by a pass over the codes: the
first costs what it returns, the second what the catalogue holds. The lists are made when first needed.

Letters: N rows, V distinct values.
"""

import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int32, Int64

from maxsearch.serving.filters.kinds import Kind, path_of
from maxsearch.serving.filters.tree import Stored

Mask: TypeAlias = Bool[np.ndarray, " N"]
MISSING = -1
FEW = 16
"""A value that at most one row in so many has is found by its list of rows."""


@dataclass(frozen=True)
class Postings:
    """Rows by code: those of code c are order[starts[c] : starts[c + 1]]."""

    order: Int32[np.ndarray, " n"]
    starts: Int64[np.ndarray, " V1"]

    @classmethod
    def of(cls, codes: Int32[np.ndarray, " n"], count: int) -> "Postings":
        """Groups positions by code; MISSING ones are left out."""
        narrow = codes.astype(np.int16) if count < 2**15 else codes  # NumPy sorts 16 bits by radix
        order = np.argsort(narrow, kind="stable").astype(np.int32)
        starts = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(codes[codes >= 0], minlength=count), out=starts[1:])
        return cls(order[len(order) - starts[-1] :], starts)

    def rows(self, first: int, stop: int) -> Int32[np.ndarray, " m"]:
        """Positions of the codes first..stop-1."""
        return self.order[self.starts[first] : self.starts[stop]]


@dataclass(frozen=True)
class Coded:
    """Text, category paths and truth values: a code per row, MISSING where there is none.

    Attributes:
      kind: TEXT, PATH or BOOL.
      values: the value of each code, ascending; paths by their components, so that a prefix is a span of codes.
      codes: one per row.
    """

    kind: Kind
    values: tuple[Stored, ...]
    codes: Int32[np.ndarray, " N"]

    @classmethod
    def of(cls, kind: Kind, array: pa.Array) -> "Coded":
        """From an Arrow column of the kind's type."""
        if kind is Kind.BOOL:
            codes = pc.fill_null(pc.cast(array, pa.int32()), MISSING)
            return cls(kind, (False, True), codes.to_numpy(zero_copy_only=False))
        codes = pc.fill_null(array.indices, MISSING).to_numpy(zero_copy_only=False)
        return cls(kind, tuple(array.dictionary.to_pylist()), codes)

    @cached_property
    def code_of(self) -> dict[Stored, int]:
        """Code by value."""
        return {value: code for code, value in enumerate(self.values)}

    @cached_property
    def postings(self) -> Postings:
        """Rows by code."""
        return Postings.of(self.codes, len(self.values))

    @cached_property
    def paths(self) -> list[tuple[str, ...]]:
        """The values as components of a path."""
        return [path_of(str(value)) for value in self.values]

    def known(self) -> Mask:
        """Rows that have a value."""
        return self.codes >= 0

    def any_of(self, values: tuple[Stored, ...]) -> Mask:
        """Rows that have one of these values."""
        codes = [self.code_of[value] for value in values if value in self.code_of]
        counts = sum(int(self.postings.starts[code + 1] - self.postings.starts[code]) for code in codes)
        if counts * FEW <= len(self.codes):
            mask = np.zeros(len(self.codes), bool)
            for code in codes:
                mask[self.postings.rows(code, code + 1)] = True
            return mask
        if len(codes) == 1:
            return self.codes == codes[0]
        chosen = np.zeros(len(self.values) + 1, bool)  # the last one is that of MISSING
        chosen[codes] = True
        return chosen[self.codes]

    def beginning_with(self, path: tuple[str, ...]) -> Mask:
        """Rows whose path begins with these components."""
        first, stop = self.span(path)
        mask = np.zeros(len(self.codes), bool)
        if (self.postings.starts[stop] - self.postings.starts[first]) * FEW <= len(mask):
            mask[self.postings.rows(first, stop)] = True
            return mask
        return (self.codes >= first) & (self.codes < stop)

    def span(self, path: tuple[str, ...]) -> tuple[int, int]:
        """First code that begins with these components, and the first one behind them."""
        n = len(path)
        first = bisect.bisect_left(self.paths, path)
        return first, bisect.bisect_right(self.paths, path, lo=first, key=lambda components: components[:n])


@dataclass(frozen=True)
class Numbers:
    """Numbers, dates (days) and times (microseconds).

    Attributes:
      kind: INT, FLOAT, DATE or TIME.
      values: one per row; 0 where there is none.
      present: whether a row has one.
    """

    kind: Kind
    values: Int64[np.ndarray, " N"] | Float64[np.ndarray, " N"]
    present: Mask

    @classmethod
    def of(cls, kind: Kind, array: pa.Array) -> "Numbers":
        """From an Arrow column of the kind's type."""
        plain = {Kind.DATE: pa.int32(), Kind.TIME: pa.int64()}.get(kind, array.type)
        values = pc.fill_null(pc.cast(array, plain), 0).to_numpy(zero_copy_only=False)
        wide = values.astype(np.float64 if kind is Kind.FLOAT else np.int64, copy=False)
        return cls(kind, wide, array.is_valid().to_numpy(zero_copy_only=False))

    @cached_property
    def order(self) -> Int32[np.ndarray, " n"]:
        """Rows that have a value, by value."""
        rows = np.flatnonzero(self.present).astype(np.int32)
        return rows[np.argsort(self.values[rows])]

    @cached_property
    def ascending(self) -> Int64[np.ndarray, " n"] | Float64[np.ndarray, " n"]:
        """The values in that order."""
        return self.values[self.order]

    def known(self) -> Mask:
        """Rows that have a value."""
        return self.present

    def any_of(self, values: tuple[Stored, ...]) -> Mask:
        """Rows that have one of these values."""
        mask = np.zeros(len(self.values), bool)
        for value in values:
            assert not isinstance(value, str)
            mask[self._rows(value, value)] = True
        return mask

    def between(self, low: int | float | None, high: int | float | None) -> Mask:
        """Rows with low <= value <= high; None is open."""
        rows = self._rows(low, high)
        if len(rows) * FEW <= len(self.values):
            mask = np.zeros(len(self.values), bool)
            mask[rows] = True
            return mask
        mask = self.present.copy()
        if low is not None:
            mask &= self.values >= low
        if high is not None:
            mask &= self.values <= high
        return mask

    def _rows(self, low: int | float | None, high: int | float | None) -> Int32[np.ndarray, " m"]:
        first = 0 if low is None else np.searchsorted(self.ascending, low, side="left")
        stop = len(self.order) if high is None else np.searchsorted(self.ascending, high, side="right")
        return self.order[first:stop]


@dataclass(frozen=True)
class Lists:
    """Several texts per row.

    Attributes:
      values: the value of each code, ascending.
      codes: of all rows, one row behind another.
      rows: the row of each code.
      length: number of rows.
    """

    values: tuple[str, ...]
    codes: Int32[np.ndarray, " n"]
    rows: Int32[np.ndarray, " n"]
    length: int
    kind: Kind = Kind.LIST

    @classmethod
    def of(cls, kind: Kind, array: pa.Array) -> "Lists":
        """From an Arrow column of lists of text; a value that a row repeats counts once."""
        rows, values = pc.list_parent_indices(array), pc.list_flatten(array)
        table = pa.table({"row": rows, "value": values}).group_by(["row", "value"], use_threads=False).aggregate([])
        encoded = table.column("value").combine_chunks().dictionary_encode()
        names, places = np.unique(np.array(encoded.dictionary.to_pylist(), dtype=object), return_inverse=True)
        codes = places.astype(np.int32)[encoded.indices.to_numpy()] if len(names) else np.zeros(0, np.int32)
        held = table.column("row").combine_chunks().to_numpy().astype(np.int32)
        return cls(tuple(names.tolist()), codes, held, len(array), kind)

    @cached_property
    def code_of(self) -> dict[str, int]:
        """Code by value."""
        return {value: code for code, value in enumerate(self.values)}

    @cached_property
    def postings(self) -> Postings:
        """Places in `rows` by code."""
        return Postings.of(self.codes, len(self.values))

    @cached_property
    def present(self) -> Mask:
        """Whether a row has a value."""
        mask = np.zeros(self.length, bool)
        mask[self.rows] = True
        return mask

    def known(self) -> Mask:
        """Rows with at least one value."""
        return self.present

    def any_of(self, values: tuple[Stored, ...]) -> Mask:
        """Rows that have one of these values among theirs."""
        mask = np.zeros(self.length, bool)
        for value in values:
            code = self.code_of.get(str(value))
            if code is not None:
                mask[self.rows[self.postings.rows(code, code + 1)]] = True
        return mask


Column: TypeAlias = Coded | Numbers | Lists


def column_of(kind: Kind, array: pa.Array) -> Column:
    """The column of an Arrow array of the kind's type."""
    match kind:
        case Kind.TEXT | Kind.PATH | Kind.BOOL:
            return Coded.of(kind, array)
        case Kind.LIST:
            return Lists.of(kind, array)
        case _:
            return Numbers.of(kind, array)

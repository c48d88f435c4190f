"""The catalogue's attributes as typed Arrow columns, one row per item of an index segment.

They are made from text cells (`items.parquet` holds a map of them per product): each distinct cell is read once, a cell
that is not of its column's type counts as missing, and how many there were is kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int32, Int64

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import write_bytes
from maxsearch.serving.filters.column_types import MISSING, Coded, Column, Numbers, column_of
from maxsearch.serving.filters.kinds import Kind, infer_kind, path_of, read_cell

ATTRIBUTES = "attributes.arrow"
"""The file's name in a generation."""
VARIANT = "variant"
KIND, BAD = b"maxsearch.kind", b"maxsearch.bad"
READ = ["variant", "attributes"]


@dataclass(frozen=True)
class BadCells:
    """Cells of a column that could not be read as its type: how many, and the first one."""

    count: int
    row: int
    cell: str


@dataclass(frozen=True)
class Columns:
    """Typed attributes of N rows.

    Attributes:
      table: one Arrow column per attribute, and the variant group under the name `variant` (an attribute of that name
        gives way to it).
      kinds: type per attribute.
      bad: per attribute with cells that could not be read, which.
    """

    table: pa.Table
    kinds: dict[str, Kind]
    bad: dict[str, BadCells] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, Column]:
        return {name: column_of(kind, _one(self.table.column(name))) for name, kind in self.kinds.items()}

    def prepare(self) -> None:
        """Makes the lists that conditions look rows up in, which the first filters would have to wait for."""
        for name in self.kinds:
            column = self[name]
            _ = column.ascending if isinstance(column, Numbers) else (column.postings, column.code_of)
            if column.kind is Kind.PATH:
                assert isinstance(column, Coded)
                _ = column.paths

    def plain(self, name: str) -> list[Any]:
        """An attribute's values as `kinds.read_cell` gives them, but lists as lists; None where a row has none."""
        column = self.table.column(name)
        whole = {Kind.DATE: pa.int32(), Kind.TIME: pa.int64()}.get(self.kinds[name])
        return (column if whole is None else column.cast(whole)).to_pylist()

    def variants(self, rows: Int64[np.ndarray, " n"]) -> list[str]:
        """The variant group of each row; empty where it has none."""
        column = self[VARIANT]
        assert isinstance(column, Coded)
        return [str(column.values[code]) if code >= 0 else "" for code in column.codes[rows].tolist()]

    @classmethod
    def of_items(
        cls, items: Path, schema: Mapping[str, Kind] | None = None, known: Mapping[str, Kind] | None = None
    ) -> "Columns":
        """Reads the attributes of an index's items.

        Args:
          items: an `items.parquet`.
          schema: type per attribute; those that neither it nor `known` names are inferred, see `infer_kind`.
          known: types of an earlier index of these items, of which the last one with an attribute may be gone.

        Raises:
          UsageError: the schema names an attribute that no item has.
          pa.ArrowException: the file is not Parquet, or has other columns.
        """
        table = pq.read_table(items, columns=READ)
        variants, maps, schema = _one(table.column("variant")), _one(table.column("attributes")), schema or {}
        names: list[str] = maps.keys.unique().to_pylist()
        absent = sorted(set(schema) - set(names) - {VARIANT})
        if absent:
            raise UsageError(
                f"no item has the attribute {absent[0]!r} that the schema names: "
                f"the items have {', '.join(sorted(names)[:20]) or 'none'}"
            )
        every: dict[str, Kind | None] = {**dict.fromkeys(names), **(known or {}), **schema}
        return cls._read(variants, maps, every)

    @classmethod
    def of_attributes(
        cls,
        attributes: Sequence[Mapping[str, str]],
        variants: Sequence[str],
        schema: Mapping[str, Kind],
    ) -> "Columns":
        """Columns of items that came after an index was built, with the types of that index.

        Args:
          attributes: text cells by name, per item; names that the schema lacks cannot be filtered by and are left out.
          variants: variant group per item; empty where there is none.
          schema: the index's `kinds`.
        """
        maps = pa.array([list(row.items()) for row in attributes], pa.map_(pa.string(), pa.string()))
        return cls._read(pa.array(variants, pa.string()), maps, schema)

    @classmethod
    def _read(cls, variants: pa.Array, maps: pa.Array, schema: Mapping[str, Kind | None]) -> "Columns":
        """Reads the named attributes; those whose kind is None are inferred."""
        rows = np.repeat(np.arange(len(maps), dtype=np.int32), np.diff(maps.offsets.to_numpy()))
        keys, cells = maps.keys.dictionary_encode(), maps.items
        names: list[str] = keys.dictionary.to_pylist()
        codes = keys.indices.to_numpy()
        arrays: dict[str, pa.Array] = {VARIANT: _encoded(variants, Kind.TEXT)[0]}
        kinds = {VARIANT: Kind.TEXT}
        bad: dict[str, BadCells] = {}
        for name in sorted(set(schema) - {VARIANT}):
            at = np.flatnonzero(codes == names.index(name)) if name in names else np.zeros(0, np.int64)
            text = _spread(cells.take(pa.array(at)), rows[at], len(maps))
            kind = schema.get(name) or infer_kind(pc.unique(pc.drop_null(text)).to_pylist())
            arrays[name], wrong = _encoded(text, kind)
            kinds[name] = kind
            if wrong is not None:
                bad[name] = wrong
        return cls(pa.table(arrays), kinds, bad)

    def write(self, path: Path) -> None:
        """Writes an Arrow file, which `read` maps into memory."""
        fields = [self.table.field(name).with_metadata({KIND: kind.value}) for name, kind in self.kinds.items()]
        bad = {name: [cells.count, cells.row, cells.cell] for name, cells in self.bad.items()}
        schema = pa.schema(fields, metadata={BAD: json.dumps(bad)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(self.table.select(list(self.kinds)).cast(schema))
        write_bytes(path, sink.getvalue().to_pybytes())

    @classmethod
    def read(cls, path: Path) -> "Columns":
        """Reads what `write` wrote.

        Raises:
          MaxsearchError: the file cannot be read.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            kinds = {item.name: Kind((item.metadata or {})[KIND].decode()) for item in table.schema}
            bad = {name: BadCells(*cells) for name, cells in json.loads(table.schema.metadata[BAD]).items()}
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise MaxsearchError(
                f"the attributes {path} cannot be read ({str(error).splitlines()[0]}): "
                "build the index again with `maxsearch index build`"
            ) from None
        return cls(table, kinds, bad)


def _one(column: pa.ChunkedArray) -> pa.Array:
    joined: Any = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):  # what older versions of Arrow give
        joined = joined.chunk(0) if joined.num_chunks else pa.array([], column.type)
    return joined


def _spread(cells: pa.Array, rows: Int32[np.ndarray, " n"], length: int) -> pa.Array:
    """The cells at their rows, null elsewhere; of several in one row the last one counts."""
    place = np.full(length, MISSING, np.int64)
    place[rows] = np.arange(len(rows))
    return cells.take(pa.array(place, mask=place < 0))


def _encoded(text: pa.Array, kind: Kind) -> tuple[pa.Array, BadCells | None]:
    """Text cells as an Arrow column of the kind's type, and the cells that are not of that kind."""
    coded = text.dictionary_encode()
    codes = pc.fill_null(coded.indices, MISSING).to_numpy(zero_copy_only=False)
    values: list[Any] = []
    wrong: list[int] = []
    for code, cell in enumerate(coded.dictionary.to_pylist()):
        try:
            values.append(read_cell(cell or "", kind))
        except (ValueError, OverflowError):
            values.append(None)
            wrong.append(code)
    bad = None
    if wrong:
        places = np.flatnonzero(np.isin(codes, wrong))
        bad = BadCells(len(places), int(places[0]), str(text[int(places[0])])[:100])
    if kind in (Kind.TEXT, Kind.PATH):
        return _dictionary(values, codes, kind), bad
    plain: list[Any] = [list(value) if isinstance(value, tuple) else value for value in values]
    storage = {Kind.DATE: pa.int32(), Kind.TIME: pa.int64()}.get(kind, kind.arrow)
    distinct = pa.array(plain, storage).cast(kind.arrow)
    return distinct.take(pa.array(codes, mask=codes < 0)), bad


def _dictionary(values: Sequence[str | None], codes: Int32[np.ndarray, " N"], kind: Kind) -> pa.Array:
    """A dictionary column whose values ascend; cells that read as the same value share a code."""
    names = sorted({value for value in values if value is not None}, key=path_of if kind is Kind.PATH else None)
    rank = {name: code for code, name in enumerate(names)}
    new = np.array([rank[value] if value is not None else MISSING for value in values] + [MISSING], np.int32)[codes]
    return pa.DictionaryArray.from_arrays(pa.array(new, mask=new < 0), pa.array(names, pa.string()))

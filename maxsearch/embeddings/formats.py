"""The files that embeddings are written to: NumPy's, with the identifiers beside, or Parquet."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maxsearch.embeddings.parts import Vectors, lists_of
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import file_in_place, write_json

DTYPES: Mapping[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SUFFIXES = (".npy", ".parquet")

Block = tuple[list[str], Vectors]


def require_format(out: Path, columns: int, dtype: str) -> None:
    """Refuses an output that cannot be written, before anything is embedded.

    Args:
      out: the file.
      columns: how many vectors each row has.
      dtype: their type.

    Raises:
      UsageError: a suffix that names no format, several vectors for NumPy's, or a type that Parquet lacks.
    """
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out} names no known format: end it in {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: give the name of a file")
    if out.suffix == ".npy" and columns > 1:
        raise UsageError("--vectors all gives several vectors a row, and a .npy file holds one: end --out in .parquet")
    if out.suffix == ".parquet" and dtype == "bfloat16":
        raise UsageError("Parquet has no bfloat16: give --dtype float16 or float32, or end --out in .npy")


def files_of(out: Path) -> tuple[Path, ...]:
    """The files that are written for `out`, itself the last."""
    return (out.with_suffix(".ids.txt"), out.with_suffix(".json"), out) if out.suffix == ".npy" else (out,)


def write_npy(out: Path, blocks: Iterable[Block], count: int, dtype: str, facts: Mapping[str, Any]) -> None:
    """Writes vectors [count, D] to a .npy file, and their identifiers, a line each, and facts beside it.

    bfloat16, which NumPy does not know, reads back as `np.load(out).view(ml_dtypes.bfloat16)`.

    Raises:
      MaxsearchError: an identifier holds a line break.
    """
    kind = np.dtype(DTYPES[dtype])
    ids_file, facts_file, _ = files_of(out)
    with file_in_place(out) as vectors_stream, file_in_place(ids_file) as ids_stream:
        for number, (ids, columns) in enumerate(blocks):
            (vectors,) = columns.values()
            if number == 0:
                head = {"descr": kind.str, "fortran_order": False, "shape": (count, vectors.shape[1])}
                np.lib.format.write_array_header_1_0(vectors_stream, head)
            vectors_stream.write(np.ascontiguousarray(vectors.astype(kind)).tobytes())
            for identifier in ids:
                if len(identifier.splitlines()) != 1:
                    raise MaxsearchError(
                        f"the identifier {identifier!r} holds a line break, and {ids_file.name} has one to a line: "
                        "end --out in .parquet"
                    )
            ids_stream.write("".join(f"{identifier}\n" for identifier in ids).encode())
        write_json(facts_file, facts)


def write_parquet(out: Path, key: str, blocks: Iterable[Block], dtype: str, facts: Mapping[str, Any]) -> None:
    """Writes identifiers and vectors, each a list of fixed size, with the facts in the schema's metadata.

    Args:
      out: the file.
      key: name of the column of identifiers.
      blocks: rows; each becomes a row group.
      dtype: of the vectors; weights stay float32.
      facts: what to keep under the key `maxsearch.<name>`.
    """
    metadata = {f"maxsearch.{name}": str(value) for name, value in facts.items()}
    with file_in_place(out) as stream:
        writer = None
        for ids, columns in blocks:
            cells: dict[str, pa.Array] = {key: pa.array(ids, pa.string())}
            for name, vectors in columns.items():
                cells[name] = lists_of(vectors if name == "weights" else vectors.astype(DTYPES[dtype]))
            table = pa.table(cells).replace_schema_metadata(metadata)
            writer = writer or pq.ParquetWriter(stream, table.schema, compression="none")
            writer.write_table(table)
        if writer is not None:
            writer.close()

"""What an interrupted embedding leaves behind, so that the same command goes on from there."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from maxsearch.errors import MaxsearchError
from maxsearch.files import write_json

ID = "id"
SETTINGS = "settings.json"

Vectors = Mapping[str, Float32[np.ndarray, "_ _"]]


class Parts:
    """Finished parts of an embedding, in order, each a Parquet file of identifiers and float32 vectors.

    Args:
      folder: where they lie; it exists.
      settings: what the vectors depend on. Parts of other settings are removed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        files = sorted(folder.glob("part-*.parquet"))
        wanted = json.loads(json.dumps(settings))
        if not files or self._settings() != wanted:
            for path in files:
                path.unlink()
            files = []
            write_json(folder / SETTINGS, wanted)
        try:
            self._counts = [pq.read_metadata(path).num_rows for path in files]
        except (pa.ArrowException, OSError) as error:
            raise MaxsearchError(
                f"what an earlier embedding left in {folder} cannot be read ({str(error).splitlines()[0]}): "
                "remove that folder"
            ) from None

    def __len__(self) -> int:
        return sum(self._counts)

    def append(self, ids: list[str], vectors: Vectors) -> None:
        """Writes the next part; it appears whole or not at all."""
        columns = {ID: pa.array(ids, pa.string()), **{name: lists_of(x) for name, x in vectors.items()}}
        draft = self._folder / "draft"
        pq.write_table(pa.table(columns), draft, compression="none")
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        draft.replace(self._path(len(self._counts)))
        self._counts.append(len(ids))

    def ids(self) -> Iterator[str]:
        """The identifiers of all parts."""
        for part in range(len(self._counts)):
            yield from pq.read_table(self._path(part), columns=[ID]).column(ID).to_pylist()

    def read(self) -> Iterator[tuple[list[str], Vectors]]:
        """All parts, one at a time."""
        for part in range(len(self._counts)):
            table = pq.read_table(self._path(part))
            names = [name for name in table.column_names if name != ID]
            yield table.column(ID).to_pylist(), {name: vectors_of(table.column(name)) for name in names}

    def _path(self, part: int) -> Path:
        return self._folder / f"part-{part:06d}.parquet"

    def _settings(self) -> Any:
        try:
            return json.loads((self._folder / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def lists_of(vectors: np.ndarray) -> pa.Array:
    """Vectors [N, D] as a column of lists of fixed size."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1])


def vectors_of(column: pa.ChunkedArray) -> np.ndarray:
    """What `lists_of` was given."""
    values = column.combine_chunks()
    return values.flatten().to_numpy().reshape(len(values), column.type.list_size)

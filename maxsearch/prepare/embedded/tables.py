"""What preparation remembers of every record: tables in a DuckDB file that spill to disk, never to memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from maxsearch.data.tables.formats import first_line
from maxsearch.errors import MaxsearchError

MEMORY = "384MB"  # of DuckDB's buffers; sorts take about as much again
THREADS = 2  # every further one has buffers of its own
BLOCK = 8192  # rows that are inserted, or fetched, at a time


class Tables:
    """The tables of one run; used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Makes an empty database in a folder, where it also spills to."""
        self._folder = folder
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "threads": THREADS,
            "temp_directory": str(folder / "spilled"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with self._failures():
            self._connection = duckdb.connect(str(folder / "tables.duckdb"), config=settings)

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def create(self, name: str, **columns: pa.DataType) -> "Appender":
        """Makes a table, and gives what fills it."""
        schema = pa.schema(list(columns.items()))
        empty = schema.empty_table()
        with self._failures():
            self._connection.register("incoming", empty)
            self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
            self._connection.unregister("incoming")
        return Appender(name, schema, self._insert)

    def derive(self, name: str, query: str, *values: Any) -> None:
        """Makes a table from a query."""
        with self._failures():
            self._connection.execute(f"CREATE TABLE {name} AS {query}", values)

    def drop(self, *names: str) -> None:
        """Forgets tables that are not needed any more."""
        with self._failures():
            for name in names:
                self._connection.execute(f"DROP TABLE {name}")

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Streams what a query gives; others may be asked meanwhile."""
        with self._failures():
            cursor = self._connection.cursor()
            reader = cursor.execute(query, values).to_arrow_reader(BLOCK)
        try:
            while True:
                with self._failures():
                    batch = next(reader, None)
                if batch is None:
                    return
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
        finally:
            cursor.close()

    def value(self, query: str, *values: Any) -> Any:
        """The one value that a query gives."""
        with self._failures():
            found = self._connection.execute(query, values).fetchone()
        assert found is not None
        return found[0]

    def _insert(self, name: str, batch: pa.Table) -> None:
        with self._failures():
            self._connection.register("incoming", batch)
            self._connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")
            self._connection.unregister("incoming")

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException) as error:
            raise MaxsearchError(
                f"cannot keep temporary tables in {self._folder} ({first_line(error)}): "
                "make room or choose another --out"
            ) from None


class Appender:
    """Fills one table, a block of rows at a time."""

    def __init__(self, name: str, schema: pa.Schema, insert: Callable[[str, pa.Table], None]) -> None:
        """Takes what `Tables.create` knows."""
        self._name, self._schema, self._insert = name, schema, insert
        self._columns: Sequence[list[Any]] = [[] for _ in schema.names]

    def add(self, *values: Any) -> None:
        """Adds a row."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        if len(self._columns[0]) == BLOCK:
            self.flush()

    def flush(self) -> None:
        """Adds what still waits: call it once before the table is read."""
        if self._columns[0]:
            self._insert(self._name, pa.table(list(self._columns), schema=self._schema))
            self._columns = [[] for _ in self._schema.names]

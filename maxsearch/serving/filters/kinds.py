"""The types an attribute can have, and how text cells and values of a request are read as them."""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

import pyarrow as pa

from maxsearch.errors import UsageError
from maxsearch.serving.filters.tree import Stored

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SEPARATOR = ">"
"""Between the components of a category path."""
LIST_SEPARATOR = "|"
TRUE, FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})
LARGEST_INT = 2**63 - 1


class Kind(StrEnum):
    """What an attribute's values are."""

    TEXT = "str"
    PATH = "path"
    LIST = "list"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    DATE = "date"
    TIME = "time"

    @property
    def ordered(self) -> bool:
        """Whether ranges make sense."""
        return self in (Kind.INT, Kind.FLOAT, Kind.DATE, Kind.TIME)

    @property
    def arrow(self) -> pa.DataType:
        """The type of its Arrow column."""
        text = pa.dictionary(pa.int32(), pa.string())
        return {
            Kind.TEXT: text,
            Kind.PATH: text,
            Kind.LIST: pa.list_(pa.string()),
            Kind.INT: pa.int64(),
            Kind.FLOAT: pa.float64(),
            Kind.BOOL: pa.bool_(),
            Kind.DATE: pa.date32(),
            Kind.TIME: pa.timestamp("us", tz="UTC"),
        }[self]


def path_of(text: str) -> tuple[str, ...]:
    """The components of a category path, "Apparel > Topwear" for one; empty components are left out."""
    return tuple(part for part in (" ".join(piece.split()) for piece in text.split(SEPARATOR)) if part)


def path_text(path: Iterable[str]) -> str:
    """The one way a path is written."""
    return f" {SEPARATOR} ".join(path)


def parse_schema(text: str) -> dict[str, Kind]:
    """Reads `price:float,in_stock:bool,category:path`.

    Raises:
      UsageError: a part without a name or with a type that does not exist, or a name that comes twice.
    """
    schema: dict[str, Kind] = {}
    for part in text.split(","):
        name, colon, kind = (piece.strip() for piece in part.rpartition(":"))
        if not colon or not name or kind not in set(Kind):
            raise UsageError(
                f"{part.strip()!r} is no attribute with a type: write NAME:TYPE with a type of {', '.join(Kind)}"
            )
        if name in schema:
            raise UsageError(f"the attribute {name!r} is given two types: name it once")
        schema[name] = Kind(kind)
    return schema


def read_cell(text: str, kind: Kind) -> Stored | tuple[str, ...] | None:
    """A cell of the catalogue as the column stores it; None when it is empty.

    Raises:
      ValueError: it is not of that kind.
    """
    text = text.strip()
    if not text:
        return None
    if kind is Kind.LIST:
        return tuple(part for part in (piece.strip() for piece in text.split(LIST_SEPARATOR)) if part) or None
    if kind is Kind.PATH:
        return path_text(path_of(text)) or None
    return _CELLS[kind](text)


def read_value(value: object, kind: Kind) -> Stored:
    """A value of a request (from JSON) as the column stores it.

    Raises:
      ValueError: it is not of that kind; the message says what was wanted.
    """
    if kind in (Kind.TEXT, Kind.LIST, Kind.PATH):
        if not isinstance(value, str):
            raise ValueError("text in quotes")
        return path_text(path_of(value)) if kind is Kind.PATH else value.strip()
    if kind is Kind.BOOL:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if kind in (Kind.DATE, Kind.TIME):
        if not isinstance(value, str):
            raise ValueError(_ISO[kind])
        try:
            return _CELLS[kind](value)
        except (ValueError, OverflowError):
            raise ValueError(_ISO[kind]) from None
    number = read_number(value)
    if kind is Kind.INT:
        if number != math.floor(number):
            raise ValueError("a whole number")
        return int(number)
    return float(number)


def read_number(value: object) -> int | float:
    """A finite JSON number within the range of 64 bits.

    Raises:
      ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    if not (math.isfinite(value) and abs(value) <= LARGEST_INT):
        raise ValueError(f"a number between -{LARGEST_INT} and {LARGEST_INT}")
    return value


def infer_kind(cells: Iterable[str]) -> Kind:
    """The narrowest kind that every non-empty cell can be read as; text when there is none or no cell.

    0 and 1 are numbers here, a number with a leading zero is text (a code, such as an EAN), and cells become paths when
    at least half of them hold " > ". Lists and anything else have to be named in a schema.
    """
    cells = [text for cell in cells if (text := cell.strip())]
    if not cells:
        return Kind.TEXT
    tries: Mapping[Kind, Callable[[str], object]] = {**_CELLS, Kind.BOOL: _word, Kind.INT: _plain_int}
    for kind in (Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.DATE, Kind.TIME):
        if all(_readable(cell, tries[kind]) for cell in cells):
            return kind
    return Kind.PATH if 2 * sum(f" {SEPARATOR} " in cell for cell in cells) >= len(cells) else Kind.TEXT


def _readable(cell: str, read: Callable[[str], object]) -> bool:
    try:
        read(cell)
    except (ValueError, OverflowError):
        return False
    return True


def _bool(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise ValueError("true or false")
    return text.lower() in TRUE


def _word(text: str) -> bool:
    if text in ("0", "1"):
        raise ValueError("a number")
    return _bool(text)


def _int(text: str) -> int:
    value = int(text)
    if abs(value) > LARGEST_INT:
        raise ValueError("too large")
    return value


def _plain_int(text: str) -> int:
    value = _int(text)
    if str(value) != text:
        raise ValueError("a code")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or "_" in text or (text.lstrip("+-")[:1] == "0" and text.lstrip("+-")[1:2].isdigit()):
        raise ValueError("a number")
    return value


def _days(text: str) -> int:
    return (date.fromisoformat(text) - EPOCH.date()).days


def _microseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // MICROSECOND


_CELLS: dict[Kind, Callable[[str], Stored]] = {
    Kind.TEXT: str,
    Kind.INT: _int,
    Kind.FLOAT: _float,
    Kind.BOOL: _bool,
    Kind.DATE: _days,
    Kind.TIME: _microseconds,
}
_ISO = {Kind.DATE: "a date as 2024-12-31", Kind.TIME: "a time as 2024-12-31T18:00:00Z"}

"""Products as the rows of a collection."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from maxsearch.errors import UsageError
from maxsearch.serving.engines.milvus.schema import (
    ATTRIBUTES,
    LONGEST_ID,
    LONGEST_TEXT,
    MOST_OF_LIST,
    PRODUCT_ID,
    ROW,
    TITLE,
    VECTOR,
    WORDS,
    Facts,
)
from maxsearch.serving.filters.columns import Columns
from maxsearch.serving.hybrid.words import document
from maxsearch.serving.items import Item


def records(
    items: Sequence[Item], vectors: Float32[np.ndarray, "n D"], rows: Sequence[int], facts: Facts
) -> list[dict[str, Any]]:
    """The rows of products.

    Args:
      items: the products.
      vectors: theirs.
      rows: numbers that order products of equal scores.
      facts: the collection's.

    Raises:
      UsageError: a value is larger than Milvus takes.
    """
    columns = Columns.of_attributes([one.attributes for one in items], [one.variant for one in items], facts.kinds)
    typed = {field.name: columns.plain(name) for name, field in facts.fields.items()}
    words: list[list[str]] = [[] for _ in items]
    if facts.words is not None:
        named = facts.words.attributes
        words = facts.words.words.of([document(one.title, one.texts, one.attributes, named) for one in items])
    found = []
    for place, (item, vector, row) in enumerate(zip(items, vectors, rows, strict=True)):
        record = {
            PRODUCT_ID: item.product_id,
            ROW: int(row),
            TITLE: item.title,
            ATTRIBUTES: item.attributes,
            VECTOR: vector.tolist(),
            **{name: values[place] for name, values in typed.items()},
        }
        if facts.words is not None:
            record[WORDS] = " ".join(words[place])
        require_small(record)
        found.append(record)
    return found


def require_small(record: dict[str, Any]) -> None:
    """Refuses a row that Milvus would.

    Raises:
      UsageError: one of its values is too large.
    """
    for name, value in record.items():
        most = LONGEST_ID if name == PRODUCT_ID else LONGEST_TEXT
        if name == ATTRIBUTES:
            value = json.dumps(value, ensure_ascii=False)
        texts = value if isinstance(value, list) and name != VECTOR else [value]
        size = max((len(text.encode()) for text in texts if isinstance(text, str)), default=0)
        if size > most or (name != VECTOR and len(texts) > MOST_OF_LIST):
            what = f"{size:,} bytes" if size > most else f"{len(texts):,} values"
            limit = f"{most:,} bytes" if size > most else f"{MOST_OF_LIST:,} values"
            raise UsageError(
                f"the product {record[PRODUCT_ID][:100]!r} has {what} in {name}, and Milvus takes {limit}: shorten it"
            )

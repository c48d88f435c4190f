"""What a collection is: its fields, its indexes, and the facts that its properties carry.

Attributes become typed fields: text and paths VARCHAR, lists ARRAY of VARCHAR, truth BOOL, numbers INT64 and DOUBLE,
dates INT64 in days and times INT64 in microseconds since 1970 (UTC), all nullable. Words stand in a field of their own,
stemmed as our own index reads them, so that Milvus's tokenizer only splits at blanks and both engines count the same
words.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.engines.milvus.expressions import FieldName
from maxsearch.serving.filters.columns import VARIANT
from maxsearch.serving.filters.kinds import Kind
from maxsearch.serving.hybrid.lexical import LexicalSettings

PRODUCT_ID, ROW, TITLE, ATTRIBUTES, VECTOR = "product_id", "row", "title", "attributes", "vector"
WORDS, SPARSE = "words", "words_bm25"
LONGEST_TEXT, LONGEST_ID, MOST_OF_LIST = 65_535, 1024, 4096
"""Bytes of a VARCHAR, of a product id, and elements of an ARRAY that a collection takes."""
MOST_FIELDS, OWN_FIELDS = 64, 8
"""Fields that a collection takes, and those that are there without attributes."""
PROPERTY, KIND, SCHEMA = "maxsearch", "maxsearch-collection", 1
LOADING, READY = "loading", "ready"


@dataclass(frozen=True)
class IndexType:
    """An index of vectors.

    Attributes:
      build: its parameters by the number of vectors.
      width: the search parameter that trades work for recall; empty where search is exact.
      widest: the largest value that is tried.
    """

    build: Mapping[str, int]
    width: str = ""
    widest: int = 0


def index_type(name: str, count: int) -> IndexType:
    """The index of that name for so many vectors.

    Raises:
      UsageError: there is none of that name.
    """
    lists = max(1, min(65_536, 4 * math.isqrt(max(count, 1))))
    known = {
        "FLAT": IndexType({}),
        "HNSW": IndexType({"M": 16, "efConstruction": 200}, "ef", 2048),
        "IVF_FLAT": IndexType({"nlist": lists}, "nprobe", lists),
        "SCANN": IndexType({"nlist": lists, "with_raw_data": True}, "nprobe", lists),
    }
    if name not in known:
        raise UsageError(f"--index-type {name} is not known here: give one of {', '.join(known)}")
    return known[name]


@dataclass(frozen=True)
class Facts:
    """What a collection says of itself.

    Attributes:
      alias: whose generations it is one of.
      generation: which one, as our store or index names it.
      model: fingerprint of the model that embedded it.
      dim: size of the vectors.
      products: how many were pushed.
      pushed: when, ISO 8601.
      fields: field and type per attribute that filters may name.
      words: how words are read; None where the index keeps none.
      index: type of its index of vectors.
      width: how widely that is searched.
      recall: at 10 against exact search, measured before it was first served; 0 before.
      state: LOADING until it has passed its tests, READY from then on.
    """

    alias: str
    generation: str
    model: str
    dim: int
    products: int
    pushed: str
    fields: Mapping[str, FieldName]
    words: LexicalSettings | None
    index: str
    width: int = 0
    recall: float = 0.0
    state: str = LOADING

    @property
    def kinds(self) -> dict[str, Kind]:
        """Type per attribute."""
        return {name: field.kind for name, field in self.fields.items()}

    @property
    def exact(self) -> bool:
        """Whether a search scores every product."""
        return not index_type(self.index, self.products).width

    def ready(self, width: int, recall: float) -> "Facts":
        """These facts once it has passed its tests."""
        return replace(self, width=width, recall=recall, state=READY)

    def search_params(self, k: int, width: int | None = None) -> dict[str, Any]:
        """How the vectors are searched for k results."""
        kind = index_type(self.index, self.products)
        params = {kind.width: self.width if width is None else width} if kind.width else {}
        if kind.width == "ef":
            params["ef"] = max(params["ef"], k)
        if self.index == "SCANN":
            params["reorder_k"] = max(10 * k, 200)
        return {"metric_type": "IP", "params": params}

    def property(self) -> dict[str, str]:
        """As the property of a collection."""
        value = {
            **asdict(self),
            "kind": KIND,
            "schema_version": SCHEMA,
            "fields": {name: [field.name, field.kind.value] for name, field in self.fields.items()},
        }
        return {PROPERTY: json.dumps(value, ensure_ascii=False)}

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> "Facts | None":
        """Reads the properties of a collection; None when we did not make it.

        Raises:
          MaxsearchError: another version of maxsearch made it.
        """
        try:
            value = json.loads(properties[PROPERTY])
            if value.pop("kind") != KIND:
                return None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if value.pop("schema_version", None) != SCHEMA:
            raise MaxsearchError(
                f"the collection of generation {value.get('generation')!r} was pushed by another version of maxsearch: "
                "push the generation again"
            )
        fields = {name: FieldName(field, Kind(kind)) for name, (field, kind) in value.pop("fields").items()}
        words = value.pop("words")
        return cls(**value, fields=fields, words=None if words is None else LexicalSettings.from_json(words))


def fields_of(kinds: Mapping[str, Kind], chosen: Iterable[str] = ()) -> dict[str, FieldName]:
    """Fields for attributes; the group of variants is always one of them.

    Args:
      kinds: type per attribute of the index.
      chosen: attributes that filters may name; all of them when empty.

    Raises:
      UsageError: an attribute that the index lacks, or more than a collection can hold.
    """
    chosen = tuple(chosen)
    absent = sorted(set(chosen) - set(kinds))
    if absent:
        raise UsageError(
            f"--attributes {absent[0]} is no attribute of the index: it has {', '.join(sorted(kinds)[:20]) or 'none'}"
        )
    names = sorted(set(chosen or kinds) - {VARIANT})
    most = MOST_FIELDS - OWN_FIELDS
    if len(names) > most:
        raise UsageError(
            f"the index has {len(names)} attributes and a Milvus collection has room for {most}: name those that "
            "filters need with --attributes"
        )
    fields = {VARIANT: FieldName(VARIANT, kinds.get(VARIANT, Kind.TEXT))}
    taken: set[str] = set()
    for place, name in enumerate(names):
        field = f"a_{re.sub('[^A-Za-z0-9_]', '_', name)[:100]}"
        if field.lower() in taken:
            field = f"{field}_{place}"
        taken.add(field.lower())
        fields[name] = FieldName(field, kinds[name])
    return fields


def collection_schema(facts: Facts) -> Any:
    """The `pymilvus.CollectionSchema` of a collection."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    text = {"datatype": DataType.VARCHAR, "max_length": LONGEST_TEXT}
    typed: dict[Kind, dict[str, Any]] = {
        Kind.TEXT: text,
        Kind.PATH: text,
        Kind.LIST: {
            "datatype": DataType.ARRAY,
            "element_type": DataType.VARCHAR,
            "max_capacity": MOST_OF_LIST,
            "max_length": LONGEST_TEXT,
        },
        Kind.BOOL: {"datatype": DataType.BOOL},
        Kind.FLOAT: {"datatype": DataType.DOUBLE},
        **{kind: {"datatype": DataType.INT64} for kind in (Kind.INT, Kind.DATE, Kind.TIME)},
    }
    schema = MilvusClient.create_schema(
        auto_id=False,
        enable_dynamic_field=False,
        description=f"maxsearch generation {facts.generation}, model {facts.model[:12]}",
    )
    schema.add_field(PRODUCT_ID, DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
    schema.add_field(ROW, DataType.INT64)
    schema.add_field(TITLE, **text)
    schema.add_field(ATTRIBUTES, DataType.JSON)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=facts.dim)
    for field in facts.fields.values():
        schema.add_field(field.name, nullable=True, **typed[field.kind])
    if facts.words is not None:
        schema.add_field(WORDS, **text, enable_analyzer=True, analyzer_params={"tokenizer": "standard"})
        schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25", function_type=FunctionType.BM25, input_field_names=[WORDS], output_field_names=[SPARSE]
            )
        )
    return schema


def vector_indexes(facts: Facts) -> Any:
    """The `pymilvus` parameters of the indexes of vectors and of words."""
    from pymilvus import MilvusClient

    found = MilvusClient.prepare_index_params()
    build = dict(index_type(facts.index, facts.products).build)
    found.add_index(VECTOR, index_type=facts.index, metric_type="IP", params=build)
    if facts.words is not None:
        weights = {"bm25_k1": facts.words.k1, "bm25_b": facts.words.b}
        found.add_index(SPARSE, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=weights)
    return found


def attribute_indexes(facts: Facts, *, lite: bool) -> Any:
    """The `pymilvus` parameters of the indexes that filters use.

    Args:
      facts: the collection.
      lite: whether it is one of Milvus-Lite, which indexes no arrays.
    """
    from pymilvus import MilvusClient

    found = MilvusClient.prepare_index_params()
    for field in facts.fields.values():
        if not (lite and field.kind is Kind.LIST):
            found.add_index(field.name, index_type="INVERTED")
    return found

"""What requests and answers look like; OpenAPI's document is made from it."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_ID = 512
MAX_TITLE = 10_000
MAX_ATTRIBUTES = 200
MAX_TEXTS = 16
MAX_IMAGES = 8
MAX_DIM = 8192


def encodable(text: str) -> str:
    """A text that UTF-8 can hold.

    Raises:
      ValueError: it holds half of a surrogate pair, which JSON's escapes can say.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds half of a surrogate pair: send whole characters") from None
    return text


def encodable_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """JSON values whose texts UTF-8 can hold.

    Raises:
      ValueError: as `encodable`.
    """
    waiting: list[Any] = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            encodable(one)
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
    return tree


Text = Annotated[str, AfterValidator(encodable)]
Tree = Annotated[dict[str, Any], AfterValidator(encodable_tree)]
Identifier = Annotated[Text, Field(min_length=1, max_length=MAX_ID)]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Base64 = Annotated[str, Field(description="A JPEG, PNG or WebP, in base64.")]


def with_words(query: str) -> str:
    """A query that says something.

    Raises:
      ValueError: it is empty.
    """
    if not query.strip():
        raise ValueError("the query is empty: type what the shopper is looking for")
    return query


Query = Annotated[Text, AfterValidator(with_words)]


class Strict(BaseModel):
    """A part of a request: a name that is not known is an error, so that a typing mistake is not ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def decoded(image: str) -> bytes:
    """The bytes of an image in base64.

    Raises:
      ValueError: it is no base64.
    """
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the image is no base64: send the file's bytes in base64, without a data: prefix") from None


class Pin(Strict):
    """A product that stands at a rank, if it passes the filter."""

    product_id: Identifier
    rank: Annotated[int, Field(ge=1, le=100)]


class Hybrid(Strict):
    """How words and vectors are put together."""

    method: Annotated[str, Field(pattern="^(rrf|weights)$")] = "rrf"
    dense: Weight = 1.0
    lexical: Weight = 1.0


class SearchRequest(Strict):
    """A search by text, image, both, another product, or a vector."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "navy blue casual shoes for men", "k": 10},
                {
                    "query": "shirt",
                    "k": 24,
                    "filter": {"in": {"field": "colour", "values": ["Blue"]}},
                    "facets": ["colour"],
                },
                {"product_id": "10054", "k": 12},
            ]
        }
    )

    query: Query | None = Field(None, description="What the shopper typed.")
    image: Base64 | None = None
    text_weight: Weight = 1.0
    image_weight: Weight = 1.0
    product_id: Identifier | None = Field(None, description="More like this product.")
    vector: list[float] | None = Field(None, min_length=1, max_length=MAX_DIM)
    k: Annotated[int, Field(ge=1)] = 10
    cursor: Annotated[Text, Field(max_length=4096)] | None = Field(None, description="Of the page before this one.")
    filter: Tree | None = None
    facets: Annotated[
        list[Identifier | Tree], Field(max_length=20, description="Attributes to count the values of.")
    ] = []
    collapse: bool = Field(False, description="Only the best product of each group of variants.")
    boosts: Annotated[list[Tree], Field(max_length=20, description="A filter with factor or add, or a field.")] = []
    pins: Annotated[list[Pin], Field(max_length=20)] = []
    hybrid: Hybrid | None = None
    refine: bool = Field(False, description="Refine the query's vector by what the words find.")
    rerank: Annotated[int, Field(ge=0, le=200)] = Field(0, description="First ranks that the matching head re-orders.")

    @model_validator(mode="after")
    def _one_kind(self) -> Any:
        by_text_or_image = self.query is not None or self.image is not None
        kinds = by_text_or_image + (self.product_id is not None) + (self.vector is not None)
        if kinds != 1:
            raise ValueError("give query or image or both, or a product_id, or a vector: one of these, not several")
        if by_text_or_image and self.query is None and (self.hybrid or self.refine or self.rerank):
            raise ValueError("hybrid, refine and rerank need a query: give one, or leave them out")
        weight = (self.text_weight if self.query is not None else 0) + (self.image_weight if self.image else 0)
        if by_text_or_image and weight <= 0:
            raise ValueError("text_weight and image_weight are both 0: give one of them a weight")
        return self


class BatchRequest(Strict):
    """Several searches at once."""

    searches: Annotated[list[SearchRequest], Field(min_length=1)]


class ProductRecord(Strict):
    """A product to add, or to put in the place of one with the same product_id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "product_id": "new-1",
                    "title": "Navy blue canvas shoes",
                    "attributes": {"colour": "Navy Blue", "price": "29.90"},
                }
            ]
        }
    )

    product_id: Identifier
    title: Annotated[Text, Field(max_length=MAX_TITLE)] = ""
    texts: Annotated[list[Annotated[Text, Field(max_length=MAX_TITLE)]], Field(max_length=MAX_TEXTS)] = []
    images: Annotated[list[Base64], Field(max_length=MAX_IMAGES)] = []
    variant: Annotated[Text, Field(max_length=MAX_ID)] = ""
    attributes: Annotated[
        dict[Identifier, Annotated[Text, Field(max_length=MAX_TITLE)]], Field(max_length=MAX_ATTRIBUTES)
    ] = {}

    @model_validator(mode="after")
    def _something(self) -> Any:
        if not self.title.strip() and not self.images and not any(text.strip() for text in self.texts):
            raise ValueError("the product has neither title nor image nor text: give one")
        return self


class UpsertRequest(Strict):
    """Products to add or to replace."""

    products: Annotated[list[ProductRecord], Field(min_length=1)]


class DeleteRequest(Strict):
    """Products to take out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"product_ids": ["new-1"]}]})

    product_ids: Annotated[list[Identifier], Field(min_length=1)]


class ExplainRequest(Strict):
    """Why a product was found."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "navy blue shoes", "product_id": "10054"}]})

    query: Query
    product_id: Identifier


class Hit(BaseModel):
    """A product that was found."""

    rank: int
    product_id: str
    title: str
    score: float
    legs: dict[str, float] = Field(
        description="Its score by each part of the search: dense, lexical, refined, match, fused."
    )
    attributes: dict[str, str]
    variant: str
    variants: int = Field(description="Products of its group of variants that collapsing left out.")
    picture: bool = Field(description="Whether /v1/picture has one.")


class Served(BaseModel):
    """What every answer says of the service."""

    generation: str
    model: str
    milliseconds: dict[str, float]


class SearchAnswer(Served):
    """The products that were found, best first."""

    hits: list[Hit]
    total: int | None = Field(description="Products that pass the filter; null where that was not counted.")
    exact: bool = Field(description="Whether every product that passes the filter was scored.")
    scanned: int
    facets: dict[str, list[dict[str, Any]]]
    cursor: str | None


class BatchAnswer(Served):
    """One answer per search, in order."""

    answers: list[SearchAnswer]


class ChangeAnswer(Served):
    """How many products were changed; the change is on disk."""

    products: int


class ExplainAnswer(Served):
    """See the command `explain`."""

    explanation: dict[str, Any]


class FieldDetail(BaseModel):
    """An attribute that filters and facets may name."""

    name: str
    kind: str
    facet: bool


class FieldsAnswer(Served):
    """The attributes, the most useful for a shopper first."""

    fields: list[FieldDetail]


class ErrorDetail(BaseModel):
    """One sentence for people, and a code for programs."""

    code: str
    message: str
    where: str = ""


class ErrorAnswer(BaseModel):
    """Every refusal looks like this."""

    error: ErrorDetail


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses for these statuses and the ones that every request may meet."""
    every = {400, 401, 403, 413, 415, 421, 422, 429, 503, *statuses}
    return {status: {"model": ErrorAnswer, "description": DESCRIPTIONS[status]} for status in sorted(every)}


DESCRIPTIONS = {
    400: "The body is no JSON.",
    401: "A key is needed.",
    403: "The key may not do this.",
    404: "No such product.",
    410: "The generation of the cursor is gone.",
    413: "The body is too large.",
    415: "The body is of another type.",
    421: "The service is not called by this name.",
    422: "A value is refused.",
    429: "Too many requests with this key.",
    503: "The service is starting, stopping or overloaded, or what it searches cannot be reached.",
}

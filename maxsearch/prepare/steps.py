"""What becomes of one row: pure functions without state, which every runner maps over its rows.

They, and what they take and give, can be pickled to other processes and machines.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maxsearch.data.catalogue import click_from_row, interaction_columns, position_of, product_columns, product_from_row
from maxsearch.data.catalogue import duplicate_id as duplicate_id  # one fault of a row among the others here
from maxsearch.data.images import decode_image
from maxsearch.data.keywords import normalized
from maxsearch.data.records import Product
from maxsearch.data.tables.formats import BadRecord
from maxsearch.data.tables.read import Columns
from maxsearch.prepare.options import PrepareOptions

Cells = Mapping[str, Any] | BadRecord


@dataclass(frozen=True)
class Rules:
    """How rows are read.

    Attributes:
      product_columns: the columns of each product field.
      click_columns: the column of each interaction field.
      image_dir: folder of the pictures when the image column holds paths.
      image_edge: pictures are shrunk to fit a square of this many pixels.
      position_power: see `debiased`.
      same: the traits of products that are variants of one another; see `twin_key`.
    """

    product_columns: Columns
    click_columns: Mapping[str, str]
    image_dir: Path | None
    image_edge: int
    position_power: float
    same: tuple[str, ...]

    @classmethod
    def of(cls, options: PrepareOptions) -> "Rules":
        """The rules that the options state; looks at the files' columns."""
        return cls(
            product_columns=product_columns(options.products, options.columns),
            click_columns=interaction_columns(options.interactions, options.columns),
            image_dir=options.image_dir,
            image_edge=options.image_edge,
            position_power=options.position_power,
            same=options.group_duplicates,
        )


@dataclass(frozen=True)
class ReadProduct:
    """A product as one row gives it.

    Attributes:
      product: the product; its variant is that of the catalogue.
      lost: the faults of pictures that were left out.
      twin: what it shares with its duplicates, see `twin_key`; empty when it is in no need of a variant.
    """

    product: Product
    lost: tuple[BadRecord, ...] = ()
    twin: str = ""

    def without_images(self) -> "ReadProduct":
        """The same without the pictures, which are most of it."""
        return replace(self, product=replace(self.product, images=()))


@dataclass(frozen=True)
class Click:
    """A query that led to a product, by its id.

    Attributes:
      query: what the shopper typed, with single spaces.
      product_id: the product, which may not exist.
      weight: how often, or how strongly, with position bias undone; above 0.
    """

    query: str
    product_id: str
    weight: float


def read_product(cells: Cells, rules: Rules) -> ReadProduct | BadRecord:
    """Turns a row of the products file into a product, or says what is wrong with it.

    Raises:
      UsageError: an image column holds a path and there is no image folder.
    """
    if isinstance(cells, BadRecord):
        return cells
    try:
        product, lost = product_from_row(cells, rules.product_columns, image_dir=rules.image_dir, edge=rules.image_edge)
        return ReadProduct(product, tuple(lost), "" if product.variant else twin_key(product, rules.same))
    except BadRecord as bad:
        return bad


def read_click(cells: Cells, rules: Rules) -> Click | BadRecord:
    """Turns a row of the interactions file into a click, or says what is wrong with it."""
    if isinstance(cells, BadRecord):
        return cells
    try:
        query, product_id, weight = click_from_row(cells, rules.click_columns)
        if "position" in rules.click_columns:
            weight = debiased(weight, position_of(cells, rules.click_columns), rules.position_power)
        return Click(query, product_id, weight)
    except BadRecord as bad:
        return bad


def debiased(weight: float, position: int, power: float) -> float:
    """The weight of a click as if every position were looked at alike: inverse propensity weighting.

    A click is divided by the propensity with which its position is looked at, (1 / position)^power: Joachims,
    Swaminathan and Schnabel, "Unbiased Learning-to-Rank with Biased Feedback" (2017), sections 4 and 6.

    Args:
      weight: above 0.
      position: from 1.
      power: the severity of the bias, eta in the paper; 0 changes nothing.

    Raises:
      BadRecord: the result is infinite.
    """
    try:
        result = weight * float(position) ** power
    except OverflowError:
        result = math.inf
    if math.isinf(result):
        raise BadRecord("bad_position", f"has the position {position}, which makes its weight infinite")
    return result


def unknown_product(product_id: str) -> BadRecord:
    """The fault of a click on a product that is not in the catalogue."""
    return BadRecord("unknown_product", f"names the product_id {product_id!r}, which no usable product has")


def infinite_total() -> BadRecord:
    """The fault of a click that makes the sum of its query and product larger than any float."""
    return BadRecord("bad_weight", "makes the summed weight of its query and product infinite")


def twin_key(product: Product, same: tuple[str, ...]) -> str:
    """What duplicates have in common: products with one key are alike in all the named traits.

    Args:
      product: the product, with its pictures as they are stored.
      same: "title" for the same title but for case, width and spaces; "image" for the same front picture, pixel by
        pixel once decoded. All that are named must agree.

    Returns:
      32 hex digits; empty when nothing is named, or the product lacks one of the traits and so has no duplicate.
    """
    if not same:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for trait in sorted(same):
        found = _pixels(product) if trait == "image" else normalized(product.title).encode()
        if not found:
            return ""
        digest.update(len(found).to_bytes(8, "little"))
        digest.update(found)
    return digest.hexdigest()


def variant_of(variant: str, twin: str, twins: int) -> str:
    """A product's variant group: its own, or else that of its duplicates.

    Args:
      variant: the one that the catalogue names, or empty.
      twin: its twin key, or empty.
      twins: how many of the usable products have that key, this one included.
    """
    return variant if variant or not twin or twins < 2 else f"duplicate:{twin}"


def _pixels(product: Product) -> bytes:
    if product.image is None:
        return b""
    pixels = decode_image(product.image)
    return repr(pixels.shape).encode() + pixels.tobytes()

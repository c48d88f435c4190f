"""Amazon ESCI, the Shopping Queries Dataset (arXiv 2206.06588), and SQID, its pictures (arXiv 2405.15190).

ESCI, from https://github.com/amazon-science/esci-data: shopping_queries_dataset_products.parquet (product_id,
product_title, product_description, product_bullet_point, product_brand, product_color, product_locale) and
shopping_queries_dataset_examples.parquet (query, query_id, product_id, product_locale, esci_label, small_version,
large_version, split, ...), both in the folder or in its shopping_queries_dataset/. The sources file is not read.

A label is a weight in training and a grade in judgments:

| label | weight | grade |
|---|---|---|
| E, exact | 1 | 3 |
| S, substitute | 0.1 | 2 |
| C, complement | 0.01 | 1 |
| I, irrelevant | none: left out | 0 |

The weights are the gains of the authors' own ranking/train.py. Grades are whole numbers, so nDCG here has the gains 7,
3, 1 and 0 in their place.

A product identifier is unique within a locale only, so one locale is prepared at a time. The products of a split are
those that its examples name.

SQID, from https://github.com/Crossing-Minds/shopping-queries-image-dataset, adds product_image_urls.csv and
supp_product_image_urls.csv (product_id, image_url), in the folder or in its sqid/. It holds no pictures: those that a
user has fetched lie in images/, named after the product (B000001.jpg) or as in the URL. A product without one keeps its
title. The CLIP features of SQID are vectors of another model, and are not read.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from maxsearch.data.layouts.layout import Download, Judged, Layout, RowsTable, find_file, find_optional, graded, require
from maxsearch.data.tables.files import TableFile
from maxsearch.data.tables.formats import BadRecord, Rows
from maxsearch.data.tables.read import cell_text, read_rows, read_table
from maxsearch.errors import UsageError

WEIGHTS = {"E": 1.0, "S": 0.1, "C": 0.01}
GRADES = {"E": 3, "S": 2, "C": 1, "I": 0}
FOLDERS = (".", "shopping_queries_dataset")
TEXTS = ("product_brand", "product_color", "product_bullet_point", "product_description")
PRODUCT_COLUMNS = ("product_id", "product_title", "product_locale", *TEXTS)
EXAMPLE_COLUMNS = ("query_id", "query", "product_id", "product_locale", "esci_label", "split")
PRODUCTS, EXAMPLES, URLS = "ESCI products file", "ESCI examples file", "SQID image URLs file"
URL_FILES = ("product_image_urls.csv", "supp_product_image_urls.csv")
IMAGES = "images"


def open_esci(folder: Path, split: str, options: Mapping[str, str]) -> Download:
    """A split of ESCI: titles and texts without pictures."""
    return _open(folder, split, options, {})


def open_sqid(folder: Path, split: str, options: Mapping[str, str]) -> Download:
    """A split of ESCI with the pictures that SQID names and the user has fetched.

    Raises:
      UsageError: as for ESCI, or there is no file of URLs or no folder of pictures.
    """
    find_file(folder, URL_FILES[:1], (".", "sqid"))
    images = folder / IMAGES
    if not images.is_dir():
        raise UsageError(
            f"--path {folder} has no folder {IMAGES}: SQID lists URLs only, so fetch them into it, named "
            "PRODUCT_ID.jpg or as in the URL, or prepare --source esci"
        )
    return _open(folder, split, options, _pictures(folder, images))


ESCI = Layout(("train", "test"), open_esci, {"locale": ("us", "es", "jp"), "version": ("small", "large")})
SQID = Layout(("train", "test"), open_sqid, ESCI.options)


def _open(folder: Path, split: str, options: Mapping[str, str], pictures: Mapping[str, str]) -> Download:
    products = TableFile(find_file(folder, ["shopping_queries_dataset_products.parquet"], FOLDERS))
    examples = TableFile(find_file(folder, ["shopping_queries_dataset_examples.parquet"], FOLDERS))
    names = require(products, PRODUCT_COLUMNS, PRODUCTS)
    version = f"{options['version']}_version"
    require(examples, (*EXAMPLE_COLUMNS, version), EXAMPLES)
    chosen = {"split": split, "product_locale": options["locale"], version: "1"}
    fields: dict[str, str | tuple[str, ...]] = {"title": "product_title", "text": TEXTS}
    if pictures:
        names, fields = [*names, "image"], {**fields, "image": "image"}
    return Download(
        products=RowsTable(
            products, tuple(names), partial(_products, products, examples, chosen, dict(pictures)), fields
        ),
        interactions=RowsTable(examples, ("query", "product_id", "weight"), partial(_interactions, examples, chosen)),
        image_dir=folder / IMAGES if pictures else None,
        judgments=partial(_judgments, examples, chosen),
    )


def _products(table: TableFile, examples: TableFile, chosen: Mapping[str, str], pictures: Mapping[str, str]) -> Rows:
    named = {
        cell_text(cells["product_id"]) for _, cells in _examples(examples, chosen) if not isinstance(cells, BadRecord)
    }
    for row, cells in read_rows(table, what=PRODUCTS):
        if isinstance(cells, BadRecord):
            yield row, cells
        elif cells["product_locale"] == chosen["product_locale"] and cell_text(cells["product_id"]) in named:
            if pictures:
                cells["image"] = pictures.get(cell_text(cells["product_id"]))
            yield row, cells


def _interactions(table: TableFile, chosen: Mapping[str, str]) -> Rows:
    for row, cells in _examples(table, chosen):
        if isinstance(cells, BadRecord):
            yield row, cells
        elif cells["esci_label"] in WEIGHTS:
            weight = WEIGHTS[cells["esci_label"]]
            yield row, {"query": cells["query"], "product_id": cells["product_id"], "weight": weight}


def _judgments(table: TableFile, chosen: Mapping[str, str]) -> Iterator[Judged]:
    for _, cells in _examples(table, chosen):
        if not isinstance(cells, BadRecord):
            yield (
                cell_text(cells["query_id"]),
                cell_text(cells["query"]),
                cell_text(cells["product_id"]),
                GRADES[cells["esci_label"]],
            )


def _examples(table: TableFile, chosen: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """The chosen rows of the examples file.

    Raises:
      MaxsearchError: one of them has an unknown label.
    """
    for row, cells in read_rows(table, what=EXAMPLES):
        if isinstance(cells, BadRecord):
            yield row, cells
        elif all(cell_text(cells[name]) == value for name, value in chosen.items()):
            graded(row, cells["esci_label"], GRADES, table, EXAMPLES)
            yield row, cells


def _pictures(folder: Path, images: Path) -> dict[str, str]:
    """The file below `images` of each product that has one."""
    files = {path.stem: str(path.relative_to(images)) for path in sorted(images.rglob("*")) if path.is_file()}
    pictures = dict(files)
    for name in URL_FILES:
        path = find_optional(folder, [name], (".", "sqid"))
        if path is None:
            continue
        require(TableFile(path), ("product_id", "image_url"), URLS)
        for _, cells in read_table(path, what=URLS):
            stem = PurePosixPath(unquote(urlsplit(cells["image_url"]).path)).stem
            if stem in files and cells["product_id"] not in files:
                pictures[cells["product_id"]] = files[stem]
    return pictures

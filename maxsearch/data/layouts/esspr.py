"""eSSPR, pairs of same-style products of alibaba.com (arXiv 2302.05093).

https://github.com/benchen4395/esspr_alibaba.com tells two forms:

- the ten pairs of the repository: the file same_trigger_recall_pairs_information, with a header and lines of
  trigger_id, trigger_title, trigger_image_name, recall_id, recall_title, recall_image_name, separated by commas and
  never quoted, and the pictures beside it;
- the released training and evaluation data: columns cate_lv1_name, cate_name, trigger_id, tirgger_title (so spelt),
  recall_id, recall_title, trigger_img, recall_img and label. The names of its files, and the values of label, are not
  told: here every table below the folder is read (CSV, TSV, JSON lines or Parquet, of one format), both spellings of
  trigger_title are taken, and label, where there is one, is 1 for the same style and 0 for another. Checked against the
  description only, never against the files.

There are no queries: the title of a trigger stands for one, and leads to its recall with weight 1. Two splits:

- "all", for training, has triggers and recalls; those that are linked by pairs share a variant group;
- "test" has the recalls alone, so that a trigger does not find itself, and the judgments: grade 1 for the recalls of a
  trigger, 0 for pairs of label 0.

Images that are URLs cannot be read: fetch them, and put paths below --image-dir in their place. The groups are found in
memory: some 200 bytes for each product.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from maxsearch.data.layouts.layout import ALL, Download, Judged, Layout, RowsTable, find_optional, graded, require
from maxsearch.data.tables.files import Table, TableFile
from maxsearch.data.tables.formats import BadRecord, Rows, TextLines
from maxsearch.data.tables.parts import table_at
from maxsearch.data.tables.read import cell_text, read_rows
from maxsearch.errors import UsageError

SAMPLE = "same_trigger_recall_pairs_information"
SAMPLE_FOLDERS = (".", "eSSPR_same_items_pairs_information")
PAIRS = "eSSPR pairs file"
GRADES = {"1": 1, "0": 0}
SIDES = ("trigger", "recall")
SPELLINGS = {
    "trigger_title": ("trigger_title", "tirgger_title"),
    "trigger_image": ("trigger_image_name", "trigger_img"),
    "recall_image": ("recall_image_name", "recall_img"),
}


def open_esspr(folder: Path, split: str, options: Mapping[str, str]) -> Download:
    """A split of eSSPR."""
    sample = find_optional(folder, [SAMPLE], SAMPLE_FOLDERS)
    if sample is not None:
        table: Table = PairLines(sample)
    elif folder.is_dir():
        table = table_at(folder, PAIRS)
    else:
        raise UsageError(f"--path {folder} is not a folder: name the folder of the unpacked download")
    names = require(table, ("trigger_id", "recall_id", "recall_title"), PAIRS)
    columns = {field: _spelt(names, spellings, table) for field, spellings in SPELLINGS.items()}
    labelled = "label" in names
    fields = ("product_id", "title", "image", "variant")
    return Download(
        products=RowsTable(table, fields, partial(_products, table, columns, labelled, split)),
        interactions=RowsTable(table, ("query", "product_id"), partial(_interactions, table, columns, labelled)),
        image_dir=sample.parent if sample is not None else None,
        judgments=partial(_judgments, table, columns, labelled) if split == "test" else None,
    )


LAYOUT = Layout((ALL, "test"), open_esspr)


class PairLines(TableFile):
    """The repository's file, whose cells are never quoted."""

    def names(self, what: str) -> list[str] | None:
        """The names in the first line."""
        with TextLines(self.file, what) as lines:
            return [name.strip() for name in next(iter(lines), "").split(",")]

    def rows(self, what: str) -> Rows:
        """The lines below it; blank ones are not counted."""
        names = self.names(what) or []
        with TextLines(self.file, what) as lines:
            sound = (line for number, line in enumerate(lines) if number and line.strip())
            for row, line in enumerate(sound, start=1):
                cells = line.rstrip("\r\n").split(",")
                if len(cells) == len(names):
                    yield row, dict(zip(names, cells, strict=True))
                else:
                    yield row, BadRecord("bad_row", f"has {len(cells)} cells where the header has {len(names)}")


def _spelt(names: list[str], spellings: tuple[str, ...], table: Table) -> str:
    found = next((name for name in spellings if name in names), None)
    if found is None:
        raise UsageError(
            f"the {PAIRS} {table} has no column {' or '.join(spellings)} (it has {', '.join(names)}): "
            "give the file as it was published"
        )
    return found


def _pairs(table: Table, labelled: bool) -> Iterator[tuple[int, dict[str, object], int] | tuple[int, BadRecord, int]]:
    """Each row with the grade of its pair."""
    for row, cells in read_rows(table, what=PAIRS):
        if isinstance(cells, BadRecord):
            yield row, cells, 0
        else:
            grade = graded(row, cell_text(cells["label"]), GRADES, table, PAIRS) if labelled else 1
            yield row, cells, grade


def _products(table: Table, columns: Mapping[str, str], labelled: bool, split: str) -> Rows:
    """Each product at its first row; a pair that brings two has its number twice."""
    groups = _groups(table, labelled) if split == ALL else {}
    seen: set[str] = set()
    for row, cells, _ in _pairs(table, labelled):
        if isinstance(cells, BadRecord):
            yield row, cells
            continue
        for side in SIDES if split == ALL else ("recall",):
            product_id = cell_text(cells[f"{side}_id"])
            if product_id in seen:
                continue
            seen.add(product_id)
            yield (
                row,
                {
                    "product_id": product_id,
                    "title": cells[columns.get(f"{side}_title", f"{side}_title")],
                    "image": cells[columns[f"{side}_image"]],
                    "variant": groups.get(product_id, ""),
                },
            )


def _interactions(table: Table, columns: Mapping[str, str], labelled: bool) -> Rows:
    for row, cells, grade in _pairs(table, labelled):
        if isinstance(cells, BadRecord):
            yield row, cells
        elif grade:
            yield row, {"query": cells[columns["trigger_title"]], "product_id": cells["recall_id"]}


def _judgments(table: Table, columns: Mapping[str, str], labelled: bool) -> Iterator[Judged]:
    for _, cells, grade in _pairs(table, labelled):
        if not isinstance(cells, BadRecord):
            trigger, recall = (cell_text(cells[f"{side}_id"]) for side in SIDES)
            yield trigger, cell_text(cells[columns["trigger_title"]]), recall, grade


def _groups(table: Table, labelled: bool) -> dict[str, str]:
    """The group of each product: the smallest identifier among those that pairs link it with."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for _, cells, grade in _pairs(table, labelled):
        if not isinstance(cells, BadRecord) and grade:
            one, other = sorted(root(cell_text(cells[f"{side}_id"])) for side in SIDES)
            parent[other] = one
    return {name: root(name) for name in parent}

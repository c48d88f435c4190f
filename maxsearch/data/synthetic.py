"""A catalogue made by drawing it, for trying the whole way from data to search without any data at hand.

Pictures, titles, queries, clicks and judgments come from known attribute values, so that the truth is known too: which
products answer a query, which of them only the picture gives away, and where in the picture each title word is seen.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from maxsearch.data.synthetic_drawing import Drawn, Look, coverage, draw_scene, encode_jpeg
from maxsearch.data.synthetic_shopping import (
    FIELDS,
    VALUES,
    VOCABULARY,
    Intent,
    Shelf,
    Title,
    draw_intent,
    is_silent,
    write_query,
    write_title,
)
from maxsearch.errors import UsageError
from maxsearch.files import directory_in_place
from maxsearch.progress import Progress

__all__ = ["FIELDS", "FILES", "VALUES", "VOCABULARY", "example_queries", "patch_alignment", "write_catalogue"]

FILES = (
    "products.train.parquet",
    "products.test.parquet",
    "products.silent.parquet",
    "interactions.train.csv",
    "queries.test.csv",
    "qrels.test.tsv",
    "qrels.silent.tsv",
    "alignments.jsonl",
)

TEST_SHARE = 0.25
SEARCHES_PER_PRODUCT = 20
NEAR_MISSES = 0.05
NOVEL_INTENTS = 0.3
_POPULARITY_POWER = 0.8
_FEWEST_PRODUCTS, _FEWEST_PIXELS, _MOST_PIXELS = 100, 32, 512
_PLAIN_SHARE = 0.4
_SECONDARY_COUNTS = (0.35, 0.45, 0.2)
_DOMAINS = {"attributes": 1, "split": 2, "shopping": 3, "examples": 4, "product": 5}

_SCHEMA = pa.schema(
    [("product_id", pa.string()), ("title", pa.string())]
    + [(name, pa.string()) for name in FIELDS]
    + [("silent", pa.bool_()), ("image", pa.binary())]
)


def _rng(seed: int, domain: str, index: int = 0) -> np.random.Generator:
    """A stream of its own for each use and product, so that one draw more in one place moves nothing elsewhere."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _DOMAINS[domain], index))))


def _attributes(products: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns value codes [N, fields], and the rows of training and of test products."""
    rng = _rng(seed, "attributes")
    codes = np.stack([rng.integers(len(VALUES[name]), size=products) for name in FIELDS], axis=1)
    pattern, plain = FIELDS.index("pattern"), VALUES["pattern"].index("plain")
    others = np.array([code for code in range(len(VALUES["pattern"])) if code != plain])
    codes[:, pattern] = np.where(rng.random(products) < _PLAIN_SHARE, plain, rng.choice(others, products))
    order = _rng(seed, "split").permutation(products)
    held_out = round(products * TEST_SHARE)
    return codes, np.sort(order[held_out:]), np.sort(order[:held_out])


def _secondary_looks(main: Look, rng: np.random.Generator) -> list[Look]:
    """Objects beside the main one, of other shapes and colours."""
    count = int(rng.choice(len(_SECONDARY_COUNTS), p=_SECONDARY_COUNTS))
    shapes = rng.permutation([shape for shape in VALUES["shape"] if shape != main.shape])
    colours = rng.permutation([colour for colour in VALUES["colour"] if colour != main.colour])
    return [Look(str(shape), str(colour)) for shape, colour in zip(shapes[:count], colours[:count], strict=True)]


def _alignment(product_id: str, edge: int, title: Title, drawn: list[Drawn]) -> dict[str, Any]:
    objects: list[dict[str, Any]] = [
        {"shape": one.look.shape, "colour": one.look.colour, "box": list(one.box), "words": {}} for one in drawn
    ]
    words: list[dict[str, Any]] = []
    for word in title.words:
        entry: dict[str, Any] = {"word": word.word, "span": [word.start, word.end], "object": word.object, "box": None}
        if word.object is not None:
            one = drawn[word.object]
            only_body = word.field == "pattern" and one.look.pattern != "plain"
            entry["box"] = list(one.body_box if only_body else one.box)
            objects[word.object]["words"][word.word] = entry["box"] if only_body else "object"
        words.append(entry)
    return {
        "product_id": product_id,
        "image_edge": edge,
        "objects": objects,
        "title": title.text,
        "title_words": words,
    }


def _make_product(row: int, shelf: Shelf, seed: int, edge: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a product's table row and its alignment record."""
    rng = _rng(seed, "product", row)
    values = shelf.values(row)
    main = Look(**{name: values[name] for name in ("shape", "colour", "material", "pattern")})
    picture, drawn = draw_scene([main, *_secondary_looks(main, rng)], edge, rng)
    title = write_title(values, [one.look for one in drawn[1:]], rng)
    product_id = f"p{row:05d}"
    product = {
        "product_id": product_id,
        "title": title.text,
        **values,
        "silent": is_silent(title),
        "image": encode_jpeg(picture),
    }
    return product, _alignment(product_id, edge, title, drawn)


def _draw_test_queries(shelf: Shelf, rows: np.ndarray, rng: np.random.Generator) -> dict[str, Intent]:
    """Distinct queries, each answered by a product among `rows`."""
    wanted = max(20, round(len(rows) / (6 * TEST_SHARE)))
    queries: dict[str, Intent] = {}
    for _ in range(20 * wanted):
        intent = draw_intent(shelf.values(int(rng.choice(rows))), rng)
        queries[write_query(intent, rng)] = intent
        if len(queries) == wanted:
            break
    return queries


def _draw_clicks(
    shelf: Shelf, rows: np.ndarray, novel: set[Intent], rng: np.random.Generator
) -> list[tuple[str, int, int]]:
    """Returns (query, row, clicks): searches for random products of `rows`, each with one click by popularity."""
    popularity = np.zeros(rows[-1] + 1)
    popularity[rng.permutation(rows)] = 1 / np.arange(1, len(rows) + 1) ** _POPULARITY_POWER
    searches: dict[Intent, list[str]] = {}
    for row in rng.choice(rows, SEARCHES_PER_PRODUCT * len(rows)):
        intent = draw_intent(shelf.values(int(row)), rng)
        if intent not in novel:
            searches.setdefault(intent, []).append(write_query(intent, rng))
    clicks: Counter[tuple[str, int]] = Counter()
    for intent, queries in searches.items():
        grades = shelf.grades(intent)[rows]
        targets, near = rows[grades == 2], rows[grades == 1]
        if not len(near):
            near = rows[grades == 0]
        missed = rng.random(len(queries)) < NEAR_MISSES
        good, off = (
            rng.choice(rows, len(queries), p=popularity[rows] / popularity[rows].sum()) for rows in (targets, near)
        )
        clicks.update(zip(queries, np.where(missed, off, good).tolist(), strict=True))
    return [(query, row, count) for (query, row), count in sorted(clicks.items())]


def _check(out: Path, products: int, seed: int, image_edge: int) -> None:
    if products < _FEWEST_PRODUCTS:
        raise UsageError(f"products={products} is too few for queries with answers: ask for {_FEWEST_PRODUCTS} or more")
    if seed < 0:
        raise UsageError(f"seed={seed} is negative: give 0 or a positive whole number")
    if not _FEWEST_PIXELS <= image_edge <= _MOST_PIXELS:
        raise UsageError(f"image_edge={image_edge} is out of range: give {_FEWEST_PIXELS} to {_MOST_PIXELS} pixels")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, and a folder is to be written there: name another place or remove it")
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in FILES) if out.exists() else []
    if foreign:
        raise UsageError(
            f"{out} holds files that are not of a synthetic catalogue ({foreign[0]}): name a new or empty folder"
        )


def _write_rows(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_catalogue(
    out: Path, *, products: int = 3000, seed: int = 0, image_edge: int = 64, progress: Progress | None = None
) -> None:
    """Draws a catalogue and writes the files named in FILES into the folder `out`, all of them or none.

    Train and test products are disjoint. A product is silent when its title names neither a colour nor a shape;
    products.silent.parquet and qrels.silent.tsv are the silent ones among the test products and the judgments on them.
    A grade is 2 when a product has all that the query asks for, 1 when it has the wanted shape and exactly one other
    wish is unmet. The wishes behind a part of the test queries occur in no training query. Equal arguments give equal
    bytes.

    Args:
      out: the folder; an older catalogue there is replaced, any other content refused.
      products: how many to draw, train and test together; 100 or more.
      seed: 0 or more.
      image_edge: the pictures' edge in pixels, 32 to 512.
      progress: reports the drawing.

    Raises:
      UsageError: an argument is out of range, or `out` holds something else.
    """
    _check(out, products, seed, image_edge)
    codes, train, test = _attributes(products, seed)
    shelf = Shelf(codes)
    rows = range(products)
    drawing = progress.track(rows, "drawing products", products) if progress else rows
    made = [_make_product(row, shelf, seed, image_edge) for row in drawing]
    items = [product for product, _ in made]
    silent = [row for row in test.tolist() if items[row]["silent"]]

    rng = _rng(seed, "shopping")
    queries = _draw_test_queries(shelf, test, rng)
    combined = sorted({intent for intent in queries.values() if len(intent) > 1})
    novel = {combined[i] for i in rng.permutation(len(combined))[: round(NOVEL_INTENTS * len(combined))]}
    clicks = _draw_clicks(shelf, train, novel, rng)
    query_ids = {query: f"q{number:04d}" for number, query in enumerate(queries)}

    with directory_in_place(out) as draft:
        for part, members in (("train", train), ("test", test), ("silent", silent)):
            table = pa.Table.from_pylist([items[row] for row in members], schema=_SCHEMA)
            pq.write_table(table, draft / f"products.{part}.parquet")
        _write_rows(
            draft / "interactions.train.csv",
            ("query", "product_id", "clicks"),
            ((query, items[row]["product_id"], count) for query, row, count in clicks),
        )
        _write_rows(draft / "queries.test.csv", ("query_id", "query"), ((query_ids[q], q) for q in queries))
        for part, members in (("test", test), ("silent", silent)):
            _write_rows(
                draft / f"qrels.{part}.tsv",
                ("query_id", "product_id", "grade"),
                (
                    (query_ids[query], items[row]["product_id"], int(grades[row]))
                    for query, intent in queries.items()
                    for grades in (shelf.grades(intent),)
                    for row in members
                    if grades[row]
                ),
            )
        with (draft / "alignments.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(json.dumps(alignment) + "\n" for _, alignment in made)


def example_queries(seed: int = 0, products: int = 3000) -> list[str]:
    """Five searches to show off with, each of another kind and answered by a test product of that catalogue."""
    codes, _, test = _attributes(products, seed)
    shelf = Shelf(codes)
    rng = _rng(seed, "examples")
    patterned = [row for row in test.tolist() if shelf.values(row)["pattern"] != "plain"]
    wordings = (
        "{pattern} {colour} {shape}",
        "{material} {shape}s",
        "{shape} in {colour}",
        "{colour} {material} {shape}",
        "{brand} {shape}",
    )
    chosen = (shelf.values(int(row)) for row in rng.choice(patterned, len(wordings), replace=False))
    return [
        wording.format(**{name: VOCABULARY[name][value][0] for name, value in values.items()})
        for wording, values in zip(wordings, chosen, strict=True)
    ]


def patch_alignment(record: dict[str, Any], size: int, patch: int) -> dict[str, Bool[np.ndarray, "rows columns"]]:
    """Which patches of the picture each title word refers to, when the picture is scaled to size x size.

    A patch counts when at least half of it lies in the word's box; a box too small for that keeps the patches that hold
    most of it. A word that names several objects gets the patches of all. Words that the picture does not show have no
    entry.

    Args:
      record: a line of alignments.jsonl.
      size: edge of the model's picture in pixels.
      patch: edge of a patch in pixels.

    Raises:
      UsageError: `size` is no multiple of `patch`.
    """
    if patch < 1 or size < 1 or size % patch:
        raise UsageError(f"size={size} is no multiple of patch={patch}: give a picture edge that patches fill")
    cells = size // patch
    grids: dict[str, np.ndarray] = {}
    for entry in record["title_words"]:
        if entry["box"] is None:
            continue
        shares = coverage(entry["box"], record["image_edge"], cells)
        grid = shares >= min(0.5, float(shares.max()))
        grids[entry["word"]] = grids.get(entry["word"], np.zeros_like(grid)) | grid
    return grids

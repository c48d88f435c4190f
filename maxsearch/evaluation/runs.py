"""Rankings in TREC's run format: `query Q0 product rank score tag`, one line per retrieved product.

Readers of the format ignore the rank: they sort by score, and products of equal score by identifier, both descending.
A score counts as a 32-bit float, as in trec_eval. Our own rankings are put in that order too, so that a saved run gives
exactly our figures elsewhere.
"""

import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.retrieval import Ranking
from maxsearch.files import write_bytes


def text_lines(path: Path, *, what: str) -> Iterator[tuple[int, str]]:
    """Streams the lines of a UTF-8 file (plain or .gz) that are not blank, with their numbers from 1.

    Args:
      path: the file.
      what: its role in words, for messages ("run file").

    Raises:
      UsageError: the file does not exist.
      MaxsearchError: the file cannot be read or is not UTF-8 text.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise UsageError(f"the {what} {path} does not exist: check the path") from None
    except UnicodeDecodeError as error:
        raise MaxsearchError(f"the {what} {path} is not UTF-8 text ({error.reason}): convert it to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise MaxsearchError(f"the {what} {path} cannot be read ({error}): check the file") from None


def read_run(path: Path) -> dict[str, list[str]]:
    """Reads a TREC run.

    Returns:
      per query identifier, the product identifiers in the order in which trec_eval ranks them.

    Raises:
      UsageError: no such file.
      MaxsearchError: a line that does not have six fields or a finite score, a product that is listed
        twice for one query, or no line at all.
    """
    scores: dict[str, dict[str, float]] = {}
    for number, line in text_lines(path, what="run file"):
        fields = line.split()
        if len(fields) != 6:
            raise MaxsearchError(
                f"{path}, line {number}: {len(fields)} fields instead of six: "
                "a TREC run has `query Q0 product rank score tag`"
            )
        query, _, product, _, cell, _ = fields
        listed = scores.setdefault(query, {})
        if product in listed:
            raise MaxsearchError(
                f"{path}, line {number}: product {product} is listed twice for query {query}: keep one line of it"
            )
        listed[product] = _score(cell, path, number)
    if not scores:
        raise MaxsearchError(f"the run file {path} holds no line: give a TREC run (`query Q0 product rank score tag`)")
    return {query: _trec_order(listed) for query, listed in scores.items()}


def _score(cell: str, path: Path, number: int) -> float:
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise MaxsearchError(
            f"{path}, line {number}: the score {cell!r} is not a finite number: write the score as a decimal number"
        )
    return score


def _trec_order(scores: dict[str, float]) -> list[str]:
    with np.errstate(over="ignore"):
        single = np.array(list(scores.values())).astype(np.float32).tolist()
    return [
        product
        for _, _, product in sorted(
            ((score, product.encode(), product) for score, product in zip(single, scores, strict=True)), reverse=True
        )
    ]


def trec_order(ranking: Ranking, products: Sequence[str]) -> Ranking:
    """Puts products of equal score in the order in which trec_eval reads them: by identifier, descending.

    Args:
      ranking: with scores in descending order.
      products: identifier per product of the catalogue.
    """
    rows, scores = ranking.rows.copy(), ranking.scores
    tied = ((scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] >= 0)).any(axis=1)
    if tied.any():
        some = rows[tied]
        used = np.unique(some[some >= 0])
        later = np.empty(len(used), np.int64)
        later[np.argsort(np.array([products[row].encode() for row in used.tolist()], dtype=object))] = np.arange(
            len(used), 0, -1
        )
        behind = later[np.minimum(np.searchsorted(used, some), len(used) - 1)]
        order = np.lexsort((behind, -scores[tied]), axis=-1)
        rows[tied] = np.take_along_axis(some, order, axis=1)
    return Ranking(rows=rows, scores=scores)


def require_trec_identifier(identifier: str, *, what: str) -> None:
    """Refuses an identifier that a TREC run cannot hold.

    Raises:
      MaxsearchError: it holds white space.
    """
    if len(identifier.split()) != 1 or identifier != identifier.strip():
        raise MaxsearchError(
            f"the {what} identifier {identifier!r} holds white space, which a TREC run cannot: "
            "rename it or leave out --save-run"
        )


def write_run(
    path: Path,
    queries: Sequence[str],
    products: Sequence[str],
    ranking: Ranking,
    *,
    tag: str = "maxsearch",
) -> None:
    """Writes a ranking as a TREC run, with its true scores.

    Args:
      path: the file; appears whole or not at all.
      queries: identifier per row of the ranking.
      products: identifier per product of the catalogue.
      ranking: in the order of `trec_order`, which is that of every reader.
      tag: the system's name in the run.

    Raises:
      MaxsearchError: an identifier holds white space.
    """
    for query in queries:
        require_trec_identifier(query, what="query")
    for row in np.unique(ranking.rows[ranking.rows >= 0]).tolist():
        require_trec_identifier(products[row], what="product")
    lines = []
    for query, ranked, values in zip(queries, ranking.rows.tolist(), ranking.scores.tolist(), strict=True):
        for rank, (row, score) in enumerate(zip(ranked, values, strict=True), start=1):
            if row < 0:
                break
            lines.append(f"{query} Q0 {products[row]} {rank} {score:.9g} {tag}\n")
    write_bytes(path, "".join(lines).encode())

"""An evaluation's rankings as TREC runs, and its figures query by query as a table."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.embedded import OURS, Catalogue
from maxsearch.evaluation.metrics import PER_QUERY
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.evaluation.results import Evaluation
from maxsearch.evaluation.retrieval import Ranking
from maxsearch.evaluation.runs import write_run
from maxsearch.files import write_bytes

SUFFIXES = (".csv", ".parquet")


def save_runs(
    options: EvaluateOptions, queries: Sequence[str], rankings: Mapping[str, Ranking], catalogue: Catalogue
) -> None:
    """Writes the runs that are asked for, cut at k.

    Args:
      options: where they go.
      queries: identifier per row of the rankings.
      rankings: by the name of the system, in the order of `trec_order`.
      catalogue: identifiers of the products.

    Raises:
      MaxsearchError: a file cannot be written.
    """
    places = [] if options.save_run is None else [(OURS, options.save_run, "--save-run")]
    if options.save_runs is not None:
        names = list(rankings)
        slugs = [slug(name) for name in names]
        files = [f"{one}-{n}" if one in slugs[:n] else one for n, one in enumerate(slugs)]
        places += [
            (name, options.save_runs / f"{file}.run", "--save-runs") for name, file in zip(names, files, strict=True)
        ]
    for name, path, flag in places:
        ranking = rankings[name]
        cut = Ranking(ranking.rows[:, : options.k], ranking.scores[:, : options.k])
        try:
            write_run(path, queries, catalogue.ids, cut, tag="maxsearch" if name == OURS else slug(name))
        except OSError as error:
            raise MaxsearchError(f"{flag} {path} cannot be written ({error.strerror}): give another place") from None


def slug(name: str) -> str:
    """A system's name as a file's: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def require_table(path: Path) -> None:
    """Refuses a place for the figures query by query that names no format.

    Raises:
      UsageError: its suffix is neither .csv nor .parquet, or it is a folder.
    """
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        raise UsageError(f"--per-query {path} names no table: give a file that ends in .csv or .parquet")


def write_per_query(path: Path, evaluation: Evaluation) -> None:
    """Writes one row for each system and query: system, query_id, and every metric that a query has.

    Args:
      path: ends in .csv or .parquet.
      evaluation: the figures.
    """
    names = ("system", "query_id", *PER_QUERY)
    systems = [row.name for row in evaluation.rows for _ in evaluation.queries]
    queries = [query for _ in evaluation.rows for query in evaluation.queries]
    figures = [[value for row in evaluation.rows for value in row.per_query[metric].tolist()] for metric in PER_QUERY]
    columns = dict(zip(names, [systems, queries, *figures], strict=True))
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        stream = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), stream)
        write_bytes(path, stream.getvalue().to_pybytes())
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns.values(), strict=True))
    write_bytes(path, text.getvalue().encode())

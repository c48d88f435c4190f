"""Starts the pipeline, waits for it, and judges what it has left in the draft's folder.

Importable without Apache Beam, which is an extra of the package.
"""

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from maxsearch.data.catalogue import INTERACTIONS_FILE, PRODUCTS_FILE
from maxsearch.data.keywords import Lexicon
from maxsearch.data.product_keywords import write_keywords
from maxsearch.data.table_files import Table
from maxsearch.data.table_formats import first_line
from maxsearch.data.table_parts import Parts, table_at
from maxsearch.data.tables import suggestion
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.prepare.manifest import NO_KEYWORDS, Contents
from maxsearch.prepare.options import PrepareOptions, part_folder
from maxsearch.prepare.rejections import Rejections
from maxsearch.prepare.splits import TRAIN, require_interactions, require_products
from maxsearch.progress import Progress

LOCAL = (None, "DirectRunner", "SwitchingDirectRunner", "FnApiRunner")


def run(
    options: PrepareOptions,
    draft: Path,
    rejections: Rejections,
    progress: Progress | None,
    *,
    flags: Sequence[str] = (),
) -> dict[str, Contents]:
    """Writes everything but the rejections and the manifest; see `embedded.run`, which writes the same.

    Args:
      options: checked ones.
      draft: the folder to fill, which all workers must see.
      rejections: takes the rejected rows.
      progress: where to report.
      flags: Beam's own options, each "NAME=VALUE" or "NAME".

    Raises:
      UsageError, MaxsearchError: as `prepare`, and when Beam is not installed, a flag is wrong, or the job fails.
    """
    settings, runner = _settings(flags)
    import apache_beam as beam

    from maxsearch.prepare.beam.pipeline import build
    from maxsearch.prepare.beam.sinks import ACCOUNTS, SCRATCH, read_accounts

    (draft / SCRATCH / ACCOUNTS).mkdir(parents=True)
    pipeline = beam.Pipeline(runner=runner, options=settings)
    build(pipeline, options, draft)
    try:
        state = pipeline.run().wait_until_finish()
    except Exception as error:  # whatever a runner or a lost worker raises
        raise MaxsearchError(f"the Beam job failed ({first_line(error)}): see its log, and run it again") from None
    if state != "DONE":
        raise MaxsearchError(f"the Beam job ended as {state}: see its log, and run it again")
    contents = _contents(options, draft, rejections, read_accounts(draft))
    shutil.rmtree(draft / SCRATCH)
    return contents


def _contents(
    options: PrepareOptions, draft: Path, rejections: Rejections, accounts: dict[str, Any]
) -> dict[str, Contents]:
    """Judges what the workers have found, and writes what takes one process."""
    from maxsearch.prepare.beam.judged import write_held_out
    from maxsearch.prepare.beam.words import read_keywords

    products, interactions = accounts["products"], accounts["interactions"]
    parts = (TRAIN, *(options.splits.shares if options.splits is not None else ()))
    judge = partial(_judge, draft, rejections, accounts["failures"])
    kept = sum(account["count"] for account in products.values())
    starts = judge(0, PRODUCTS_FILE, table_at(options.products), accounts["product_rows"], kept)
    for part in parts:
        require_products(part, part in products)
    judge(1, INTERACTIONS_FILE, table_at(options.interactions), accounts["interaction_rows"], accounts["pairs"])
    for part in parts:
        require_interactions(part, part in interactions)
    keywords = NO_KEYWORDS
    if options.keywords:
        folder, lexicon = part_folder(draft, TRAIN, options), Lexicon(tuple(accounts["lexicon"]))
        keywords = write_keywords(folder, lexicon, products[TRAIN]["count"], read_keywords(draft))
    queries, weights = dict(accounts["queries"]), dict(accounts["total_weight"])
    rows = [starts[number] + row for _, (number, _, row) in sorted(accounts.get("screened_rows", []))]
    return {
        part: Contents(
            products=products[part],
            interactions=interactions[part],
            queries=queries[part],
            total_weight=weights[part],
            keywords=keywords if part == TRAIN else NO_KEYWORDS,
            attributes=sorted(name for owner, name in accounts["attributes"] if owner == part),
            rows=rows if part == TRAIN else (),
            more={} if part == TRAIN else {"judgments": write_held_out(draft, part, part_folder(draft, part, options))},
        )
        for part in parts
    }


def _judge(
    draft: Path,
    rejections: Rejections,
    failures: list[Any],
    kind: int,
    what: str,
    table: Table,
    counts: list[list[int]],
    kept: int,
) -> list[int]:
    """Writes a table's letters down, and ends the run where it could not be read or is too bad.

    Returns:
      the rows before each of its files.
    """
    from maxsearch.prepare.beam.letters import read_letters

    rows = [count for _, count in sorted(counts)]
    if isinstance(table, Parts):
        table.counted(rows)
    starts = list(accumulate(rows, initial=0))
    for (part, _, row), is_picture, bad in read_letters(draft, kind):
        if is_picture:
            rejections.add_image(table, starts[part] + row, bad)
        else:
            rejections.add(what, table, starts[part] + row, bad)
    for failed, _, code, sentence in failures:
        if failed == kind:
            raise (UsageError if code == UsageError.exit_code else MaxsearchError)(sentence)
    rejections.check(what, table, sum(rows), kept)
    return starts


def _settings(flags: Sequence[str]) -> tuple[Any, Any]:
    """Beam's options and runner.

    Raises:
      UsageError: Beam is not installed, or an option is unknown or has a wrong value.
    """
    try:
        with _no_warnings():
            from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
            from apache_beam.runners.portability.fn_api_runner import FnApiRunner
            from apache_beam.runners.runner import create_runner
    except ImportError:
        raise UsageError(
            "--runner beam needs Apache Beam, which is not installed: pip install 'maxsearch[beam]'"
        ) from None
    with _no_warnings():
        known = PipelineOptions([]).get_all_options()
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                settings = PipelineOptions([f"--{flag}" for flag in flags])
                given = settings.get_all_options()
        except SystemExit:
            raise UsageError(
                f"--beam-options {' '.join(flags)} is refused by Beam ({said.getvalue().strip().splitlines()[-1]})"
            ) from None
    name = settings.view_as(StandardOptions).runner
    if name in LOCAL:
        for flag in flags:
            key = flag.partition("=")[0]
            if key not in known:
                raise UsageError(f"--beam-options {flag} is no option of Beam: {suggestion(key, known)}")
        direct = settings.view_as(DirectOptions)
        if given["direct_num_workers"] != 1 and given["direct_running_mode"] == "in_memory":
            direct.direct_running_mode = "multi_processing"  # in memory there is one worker whatever their number
        return settings, FnApiRunner()
    try:
        return settings, create_runner(name)
    except (ImportError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(f"--beam-options runner={name} cannot be used ({first_line(error)})") from None


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Keeps Beam quiet about parts of it that are not installed, and options of other classes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

"""The runner that needs no engine."""

import shutil
from pathlib import Path

from maxsearch.prepare.embedded.clicks import write_clicks
from maxsearch.prepare.embedded.judgments import write_held_out
from maxsearch.prepare.embedded.keywords import write_product_keywords
from maxsearch.prepare.embedded.products import write_products
from maxsearch.prepare.embedded.tables import Tables
from maxsearch.prepare.manifest import NO_KEYWORDS, Contents
from maxsearch.prepare.options import PrepareOptions, part_folder
from maxsearch.prepare.rejections import Rejections
from maxsearch.prepare.splits import TRAIN
from maxsearch.prepare.steps import Rules
from maxsearch.progress import Progress

SCRATCH = "scratch"


def run(options: PrepareOptions, draft: Path, rejections: Rejections, progress: Progress | None) -> dict[str, Contents]:
    """Writes everything but the rejections and the manifest.

    What grows with the catalogue lies in a scratch folder in `draft`, which is gone in the end.

    Args:
      options: checked ones.
      draft: the folder to fill.
      rejections: takes the rejected rows.
      progress: where to report.

    Returns:
      What each part's folder now holds; without splits there is one, "train".

    Raises:
      UsageError, MaxsearchError: as `prepare`.
    """
    rules = Rules.of(options)
    scratch = draft / SCRATCH
    scratch.mkdir()
    with Tables(scratch) as tables:
        products = write_products(options, rules, tables, scratch, draft, rejections, progress)
        clicks = write_clicks(options, rules, tables, draft, rejections, progress)
        count = products[TRAIN].account["count"]
        keywords = write_product_keywords(tables, part_folder(draft, TRAIN, options), count, options.keywords)
        judgments = {
            part: write_held_out(tables, part, part_folder(draft, part, options)) for part in products if part != TRAIN
        }
    shutil.rmtree(scratch)
    return {
        part: Contents(
            products=products[part].account,
            interactions=clicks[part].account,
            queries=clicks[part].queries,
            total_weight=clicks[part].total.value,
            keywords=keywords if part == TRAIN else NO_KEYWORDS,
            attributes=sorted(products[part].attributes),
            rows=products[part].rows,
            more={"judgments": judgments[part]} if part != TRAIN else {},
        )
        for part in products
    }

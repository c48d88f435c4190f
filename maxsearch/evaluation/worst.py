"""The queries that a system answers worst: what it returned, and what was wanted."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from maxsearch.evaluation.embedded import Catalogue
from maxsearch.evaluation.judged import Judged
from maxsearch.evaluation.results import Shown, Worst
from maxsearch.evaluation.retrieval import Ranking

QUERIES, RETURNED, WANTED = 20, 10, 5


def worst(
    values: Float64[np.ndarray, " Q"],
    ranking: Ranking,
    judged: Judged,
    texts: Sequence[str],
    catalogue: Catalogue,
) -> list[Worst]:
    """The queries of the lowest values, the first products of each, and the best-graded ones with their ranks.

    Args:
      values: one per evaluated query; of equal ones the earlier query comes first.
      ranking: of the same queries.
      judged: the judgments.
      texts: of the queries.
      catalogue: identifiers and titles.
    """
    bounds = np.searchsorted(judged.query, np.arange(len(values) + 1))
    found = []
    for query in np.argsort(values, kind="stable")[:QUERIES].tolist():
        here = slice(bounds[query], bounds[query + 1])
        grades = dict(zip(judged.row[here].tolist(), judged.grade[here].tolist(), strict=True))
        rows = ranking.rows[query][ranking.rows[query] >= 0].tolist()
        scores = ranking.scores[query].tolist()
        ranks = {row: rank for rank, row in enumerate(rows, start=1)}
        best = sorted(grades.items(), key=lambda judgment: (-judgment[1], judgment[0]))[:WANTED]
        found.append(
            Worst(
                query_id=judged.queries[query],
                query=texts[query],
                value=float(values[query]),
                returned=[
                    Shown(catalogue.ids[row], catalogue.titles[row], grades.get(row, 0), scores[place], place + 1)
                    for place, row in enumerate(rows[:RETURNED])
                ],
                wanted=[
                    Shown(catalogue.ids[row], catalogue.titles[row], grade, None, ranks.get(row))
                    for row, grade in best
                    if grade > 0
                ],
            )
        )
    return found

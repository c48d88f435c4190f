"""Names and figures in words, alike on the page and on the card."""

import re
from collections.abc import Iterable
from typing import Any

from maxsearch.evaluation.embedded import IMAGE_ONLY, OURS, TEXT_ONLY
from maxsearch.report.inputs.evaluation import EvaluationFile, Slice, System
from maxsearch.report.inputs.shapes import Interval

TITLES = {
    "ndcg@10": "nDCG@10",
    "recall@10": "recall@10",
    "recall@100": "recall@100",
    "precision@10": "precision@10",
    "hit@10": "hit rate@10",
    "relevance@10": "relevance@10",
    "mrr": "MRR",
    "map": "MAP",
    "auc": "ROC-AUC",
}
MEANINGS = {
    "ndcg@10": "how close the first 10 come to the best possible order, by graded gain",
    "recall@10": "share of a query's relevant products among the first 10",
    "recall@100": "share of a query's relevant products among the first 100",
    "precision@10": "share of relevant products among the first 10",
    "hit@10": "share of queries with a relevant product among the first 10",
    "relevance@10": "mean relevance of the first 10",
    "mrr": "1 over the rank of the first relevant product",
    "map": "precision at the rank of every relevant product, averaged",
    "auc": "chance that a relevant pair of query and product scores above another one",
}
PARTS = (OURS, TEXT_ONLY, IMAGE_ONLY)
_FOLDERS = re.compile(r"(?<![\w:/.~])(?:~|[A-Za-z]:)?[\\/](?:[^\s/\\'\"]+[\\/])+([^\s/\\'\"]*)")


def metrics_of(systems: Iterable[System]) -> list[str]:
    """The metrics that any system has a figure of, in the order to display."""
    names = dict.fromkeys(name for system in systems for name in system.metrics)
    return [name for name in TITLES if name in names] + [name for name in names if name not in TITLES]


def headline(evaluation: EvaluationFile) -> str | None:
    """The metric that stands for an evaluation: the first one that its model has a figure of."""
    main = evaluation.main
    return next(iter(metrics_of([main])), None) if main else None


def is_ours(system: str) -> bool:
    """Whether a system is the evaluated model or a part of it, and not one that it is compared with."""
    return system == OURS or system.startswith(f"{OURS},")


def title_of(metric: str) -> str:
    """A metric's name for people."""
    return TITLES.get(metric, metric)


def p_said(p: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def without_folders(text: str) -> str:
    """A text whose paths are cut to their last part: where something lies on a machine is nobody else's business."""
    return _FOLDERS.sub(lambda match: match[1] or match[0].rstrip("/\\").rpartition("/")[2], text)


def shown(value: Any) -> str:
    """A setting on one line, without folders."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else without_folders(str(value))


def image_gain(one: Slice) -> Interval | None:
    """How much the image adds in a slice: fused less text only, query by query."""
    less = one.differences.get(TEXT_ONLY)
    return None if less is None else Interval(-less.mean, -less.high, -less.low)


def is_clear(difference: Interval) -> bool:
    """Whether an interval leaves 0 out."""
    return difference.low > 0 or difference.high < 0


def slice_name(one: Slice) -> str:
    """A slice and its value."""
    return f"{one.slice}: {one.value or '(none)'}"

"""Hand-made files that a report is made from: a run, an evaluation, an ablation, an index tuning, a catalogue."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests import tiny

SYSTEMS = ("ours", "ours, text only", "ours, image only", "BM25", "random")
METRICS = ("ndcg@10", "recall@10", "recall@100", "precision@10", "hit@10", "relevance@10", "mrr", "map", "auc")


def interval(mean: float, wide: float = 0.02) -> dict[str, float]:
    return {"mean": mean, "low": mean - wide, "high": mean + wide}


def figures() -> dict[str, dict[str, Any]]:
    return {name: {m: interval(0.7 - 0.15 * at) for m in METRICS} for at, name in enumerate(SYSTEMS)}


def part(name: str, value: str, image_adds: float, of: str = "queries", queries: int = 120) -> dict[str, Any]:
    means = (0.6, 0.6 - image_adds, 0.5, 0.2, 0.01)
    systems = {name: interval(mean) for name, mean in zip(SYSTEMS, means, strict=True)}
    named = {"slice": name, "value": value, "of": of, "queries": queries, "judgments": 10 * queries}
    less = {
        name: {"mean": mean - means[0], "low": mean - means[0] - 0.03, "high": mean - means[0] + 0.03}
        for name, mean in zip(SYSTEMS[1:], means[1:], strict=True)
    }
    return {**named, "metric": "ndcg@10", "systems": systems, "differences": less}


def evaluation(**changes: Any) -> dict[str, Any]:
    """As `evaluate --out` writes it, schema version 2."""
    comparisons = [
        {"system": name, "against": "ours", "metric": metric, "p": 0.0001, "p_corrected": 0.0004}
        | {"mean": -0.15 * at, "low": -0.15 * at - 0.02, "high": -0.15 * at + 0.02}
        for at, name in enumerate(SYSTEMS)
        for metric in METRICS[:2]
        if at
    ]
    found: dict[str, Any] = {
        "schema_version": 2,
        "kind": "maxsearch-evaluation",
        "systems": [{"name": name, "metrics": metrics, "missing_queries": 0} for name, metrics in figures().items()],
        "comparisons": comparisons,
        "slices": [
            part("title says the query", "silent", 0.25),
            part("title says the query", "fully", 0.01),
            part("category", "Apparel", 0.1, of="products", queries=12),
            part("category", "Footwear", 0.1, of="products"),
        ],
        "warnings": [{"code": "leaked_pairs", "message": "7 judged pairs also occur in /home/someone/data/train."}],
        "worst": [
            {
                "query_id": f"q{number}",
                "query": f"query number {number}",
                "metric": "ndcg@10",
                "value": number / 10,
                "returned": [
                    {"product_id": f"p{at}", "title": f"title {at}", "grade": at % 3, "score": 0.5} for at in range(4)
                ],
                "wanted": [
                    {"product_id": "p4", "title": "title 4", "grade": 2, "rank": 37},
                    {"product_id": "p5", "title": "title 5", "grade": 1, "rank": None},
                ],
            }
            for number in range(6)
        ],
        "counts": {"products": 900, "queries_evaluated": 300, "judgments": 4000, "queries_without_judgments": 3},
        "settings": {"k": 100, "gain": "2^grade - 1", "relevant_grade": 1, "products": None, "columns": {}},
        "weights": {
            "attribute": "category",
            "rows": [
                {"value": "Apparel", "products": 600, "title": 0.7, "image": 0.3},
                {"value": "", "products": 300, "title": 0.6, "image": 0.4},
            ],
        },
    }
    return found | changes


def tuning(**changes: Any) -> dict[str, Any]:
    """As `index tune --out` writes it."""
    settings = [
        {"setting": {"leaves": leaves}, "recall@10": recall, "recall@100": recall - 0.1, "milliseconds": time}
        | {"queries_per_second": 900}
        for leaves, recall, time in ((2, 0.7, 0.02), (10, 0.96, 0.05), (20, 0.95, 0.06), (100, 1, 1))
    ]
    found = {"schema_version": 1, "kind": "maxsearch-index-tuning", "index": "/home/someone/index", "count": 100_000}
    found |= {"dim": 256, "queries": 500, "target_recall": 0.95, "k": 10, "chosen": {"leaves": 10}}
    return found | {"settings": settings} | changes


def ablation(**changes: Any) -> dict[str, Any]:
    """As `ablate --out` writes it into ablation.json."""

    def rung(name: str, against: str, mean: float, difference: float | None) -> dict[str, Any]:
        paired = None if difference is None else interval(difference, 0.01) | {"p": 0.02, "p_corrected": 0.2}
        metrics = {"ndcg@10": interval(mean) | {"by_seed": [mean, mean], "sd": 0.0, "difference": paired}}
        described = {"name": name, "part": "product", "against": against, "run": name, "data": ""}
        return {**described, "seeds": [0, 1], "complete": True, "training_minutes": [1.0, 2.0], "metrics": metrics}

    rungs = [rung("plain", "", 0.6, None), rung("+ aligner", "plain", 0.61, 0.005), rung("all", "plain", 0.7, 0.1)]
    found = {"schema_version": 1, "kind": "maxsearch-ablation", "seeds": [0, 1], "queries": 300, "products": 900}
    return found | {"rungs": rungs, "failed": {"odd, seed 0": "out of memory; see /home/someone/log.txt"}} | changes


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def run(folder: Path, steps: int = 40) -> Path:
    """A run folder without checkpoints."""
    write(folder / "config.json", tiny.config().to_json())
    lines = [
        {"step": step, "loss": 5 / step, "loss/query_product": 3 / step, "loss/query_image": 2 / step}
        | {"learning_rate": 1e-3, "examples_per_second": 1000 + step, "data_wait": 0.01, "epoch": 0.1 * step}
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    spent = {"start": 5.0, "compile": 10.0, "data": 1.0, "steps": 84.0}
    line = {"began": 1_700_000_000.0, "wall": 100.0, "first": 0, "last": steps, "seconds": spent}
    (folder / "goodput.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def products(path: Path, count: int = 6) -> Path:
    """A Parquet catalogue whose last product but one has a broken picture."""
    rows = []
    for at in range(count):
        stream = io.BytesIO()
        Image.new("RGB", (300, 200), (40 * at % 256, 90, 160)).save(stream, "PNG")
        image = b"broken" if at == count - 2 else stream.getvalue()
        rows.append({"product_id": f"p{at}", "title": f"title {at}", "image": image})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


NOT_NUMBERS = (math.nan, math.inf, -math.inf)

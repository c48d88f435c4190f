"""What words add to meaning: dense, BM25, both fused, and the query refined, on judged queries; JSON lines.

python benchmarks/hybrid.py --run RUN --products products.dev.parquet --title title_sparse \
    --queries queries.dev.csv --qrels qrels.dev.tsv

The judged queries are split in two halves by a seed. The dense leg's weight and the refinement's settings are chosen on
one half; every figure is of the other. Intervals are 95 % bootstrap intervals over queries, p-values are of the paired
randomisation test against the dense leg alone, corrected by Holm over the systems.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.encode import Encoder
from maxsearch.evaluation.bootstrap import bootstrap
from maxsearch.evaluation.comparison import paired_differences
from maxsearch.evaluation.judgments import read_qrels, read_queries
from maxsearch.evaluation.metrics import Relevance, score
from maxsearch.serving.catalogue import catalogue
from maxsearch.serving.filters.columns import Columns
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.filters.planner import Plan
from maxsearch.serving.filters.segments import Segment
from maxsearch.serving.filters.vector_table import ArrayVectors
from maxsearch.serving.hybrid.lexical import LexicalSettings, build_lexical, open_lexical
from maxsearch.serving.hybrid.ranking import Fusion, HybridPlan, HybridSettings
from maxsearch.serving.hybrid.refine import RefineSettings
from maxsearch.serving.hybrid.tune import stacked, tune_weight
from maxsearch.serving.hybrid.words import document
from maxsearch.serving.nearest import ExactNearest

METRICS = ("ndcg@10", "recall@100")
RANKS = 100
REFINEMENTS = [
    RefineSettings(steps=steps, rate=rate, share=share, guide_temperature=heat)
    for steps, rate, share, heat in product((10,), (0.002, 0.01), (0.25, 0.5), (0.1, 0.3))
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--qrels", type=Path, required=True)
    parser.add_argument("--title", default="title", help="the column of the title")
    parser.add_argument("--attributes", nargs="*", default=[], help="attributes that BM25 reads too")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()

    encoder = Encoder.from_run(flags.run)
    columns: Any = {"title": flags.title}
    products = list(
        catalogue(
            products=flags.products,
            data=None,
            columns=columns,
            image_dir=None,
            edge=encoder.image_edge,
            max_bad_fraction=0.01,
        )
    )
    vectors = np.concatenate([batch.p for batch in encoder.encode_products(products)])
    place = {item.product_id: row for row, item in enumerate(products)}
    texts, qrels = read_queries(flags.queries, {}), read_qrels(flags.qrels, {})
    judged = {
        query: {place[item]: grade for item, grade in qrels.get(query, {}).items() if item in place} for query in texts
    }
    queries = [query for query, grades in judged.items() if any(grade > 0 for grade in grades.values())]
    encoded = encoder.encode_queries([texts[query] for query in queries])
    order = np.random.default_rng(flags.seed).permutation(len(queries))
    tuned_on, told_of = np.split(order, [len(order) // 2])

    with tempfile.TemporaryDirectory() as folder:
        documents = [document(x.title, x.texts, x.attributes, flags.attributes) for x in products]
        settings = LexicalSettings(attributes=tuple(flags.attributes))
        build_lexical(documents, Path(folder) / "lexical", settings)
        leg = open_lexical(Path(folder) / "lexical")
        empty = Columns.of_attributes([{}] * len(products), [""] * len(products), {})
        base = Segment("fashion", empty, ArrayVectors(vectors), ExactNearest(vectors), exact=True)
        words = settings.words.of([texts[query] for query in queries])
        cache = MaskCache()

        def plan(number: int, how: HybridSettings) -> HybridPlan:
            return HybridPlan(Plan.make([base], encoded[number], cache=cache), (leg,), words[number], how)

        def ranked(numbers: np.ndarray, how: HybridSettings) -> np.ndarray:
            return stacked([plan(int(number), how).ranking().rows for number in numbers], RANKS)

        def relevance(numbers: np.ndarray) -> Relevance:
            return Relevance.build([judged[queries[number]] for number in numbers], len(products))

        plain = HybridSettings(fusion=Fusion.WEIGHTED, candidates=flags.candidates)
        tuning = tune_weight([plan(int(number), plain).candidates for number in tuned_on], relevance(tuned_on))
        tried = {}
        for refinement in REFINEMENTS:
            how = replace(plain, fusion=Fusion.DENSE, refine=refinement)
            tried[refinement] = score(ranked(tuned_on, how), relevance(tuned_on))["ndcg@10"].mean()
        best = max(tried, key=lambda refinement: tried[refinement])
        shared = {"title": flags.title, "attributes": flags.attributes, "queries": len(told_of), "seed": flags.seed}
        print(json.dumps({"tuned": "weight", **shared, "on": len(tuned_on), **tuning.to_json()}))
        grid = [{**asdict(refinement), "ndcg@10": round(float(value), 4)} for refinement, value in tried.items()]
        print(json.dumps({"tuned": "refinement", **shared, "on": len(tuned_on), "chosen": asdict(best), "grid": grid}))

        systems = {
            "dense": replace(plain, fusion=Fusion.DENSE),
            "BM25": replace(plain, fusion=Fusion.LEXICAL),
            "RRF": replace(plain, fusion=Fusion.RRF),
            "weighted 0.5": replace(plain, weight=0.5),
            "weighted, tuned": replace(plain, weight=tuning.weight),
            "GQR": replace(plain, fusion=Fusion.DENSE, refine=best),
            "GQR + weighted, tuned": replace(plain, refine=best, weight=tuning.weight),
        }
        values = {name: score(ranked(told_of, how), relevance(told_of)) for name, how in systems.items()}
    for metric in METRICS:
        others = [name for name in systems if name != "dense"]
        intervals = bootstrap(np.stack([values[name][metric] for name in systems], axis=1))
        gaps = paired_differences(np.stack([values[x][metric] - values["dense"][metric] for x in others], axis=1))
        corrected = holm([gap.p for gap in gaps])
        for name, interval in zip(systems, intervals, strict=True):
            line: dict[str, Any] = {"system": name, **shared, "metric": metric, **rounded(asdict(interval))}
            if name != "dense":
                at = others.index(name)
                line["against dense"] = {**rounded(asdict(gaps[at])), "p_corrected": round(corrected[at], 4)}
            print(json.dumps(line))


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of n times n - i, never below the one before."""
    corrected, least = [0.0] * len(p_values), 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        least = max(least, min(1.0, p_values[at] * (len(p_values) - place)))
        corrected[at] = least
    return corrected


if __name__ == "__main__":
    main()

"""How well a model ranks a catalogue for judged queries, beside baselines and any TREC run.

Letters: Q evaluated queries, K ranks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from maxsearch.data.catalogue import product_columns
from maxsearch.data.keys import text_key
from maxsearch.evaluation.auc import Pairs, auc_values, with_negatives
from maxsearch.evaluation.baselines.spec import parse_baselines
from maxsearch.evaluation.bootstrap import RESAMPLES, Interval, bootstrap
from maxsearch.evaluation.comparison import compare
from maxsearch.evaluation.embedded import OURS, Catalogue, ProductEncoder, ProductsFile, Scored, rank_catalogue
from maxsearch.evaluation.judged import Judged, counts, inside, read_asked, run_rows
from maxsearch.evaluation.leakage import leaks
from maxsearch.evaluation.metrics import AUC, METRICS, PER_QUERY, Relevance, score
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.evaluation.rankers import Task
from maxsearch.evaluation.rerank import pair_encoder, rerank
from maxsearch.evaluation.results import Evaluation, SystemRow, Warned
from maxsearch.evaluation.retrieval import Ranking
from maxsearch.evaluation.runs import trec_order
from maxsearch.evaluation.saved import save_runs
from maxsearch.evaluation.slice_figures import RESAMPLES as SLICE_RESAMPLES
from maxsearch.evaluation.slice_figures import depth, slice_rows
from maxsearch.evaluation.slices import (
    Slicing,
    by_attribute,
    by_clicks,
    by_image,
    by_length,
    by_saying,
    by_seen,
    by_title,
    query_words,
    said,
)
from maxsearch.evaluation.training_data import TrainingData, listing_keys, read_training
from maxsearch.evaluation.weights import require_attribute, weights_by
from maxsearch.evaluation.worst import worst
from maxsearch.progress import Progress

__all__ = ["EvaluateOptions", "evaluate"]

PAIR_BLOCK = 65_536  # pairs whose scores are asked for at a time
TIED_SHARE = 0.05  # of the queries, from which on ties are told of


def evaluate(options: EvaluateOptions, encoder: ProductEncoder, progress: Progress | None = None) -> Evaluation:
    """Ranks the catalogue for every judged query and compares.

    All files but the products are read and checked before anything is embedded.

    Raises:
      UsageError: a file or a column is missing, or the model cannot re-rank and should.
      MaxsearchError: a malformed file, no common identifiers, or too many unusable products.
    """
    scorer = pair_encoder(encoder) if options.rerank else None
    baselines = parse_baselines(list(dict.fromkeys(options.baselines)), seed=options.seed)
    asked = read_asked(options)
    file = ProductsFile(options.products, options.columns, options.image_dir, options.max_bad_fraction)
    columns = product_columns(file.path, file.columns)
    if options.weights_by is not None:
        require_attribute(file.path, columns, options.weights_by, flag="--weights-by")
    for name in options.slices:
        require_attribute(file.path, columns, name, flag="--slice")
    training = read_training(options.train, progress) if options.train is not None else None
    attributes = {*options.slices, *([options.weights_by] if options.weights_by else [])}

    deep = depth(options.k, len(asked.ranked))
    memory = None if options.search_memory is None else options.search_memory * 10**6
    task = Task([asked.texts[query] for query in asked.ranked], deep, asked.products, memory)
    rankers, catalogue = rank_catalogue(
        file,
        encoder,
        task,
        baselines,
        parts=options.parts,
        trec_identifiers=options.saves,
        weights=options.weights_by is not None,
        attributes=sorted(attributes),
        keyed=training is not None,
        progress=progress,
    )
    judged = inside(asked, catalogue, options)
    texts = [asked.texts[query] for query in judged.queries]
    everything = {name: trec_order(ranker.ranking(), catalogue.ids) for name, ranker in rankers.items()}
    save_runs(options, asked.ranked, everything, catalogue)

    ours = Ranking(everything[OURS].rows[judged.place], everything[OURS].scores[judged.place])
    rows_of: dict[str, Any] = {name: ranking.rows[judged.place] for name, ranking in everything.items()}
    if scorer is not None:
        rows = rerank(file, scorer, texts, ours.rows, options.rerank, progress)
        rows_of = {OURS: rows_of[OURS], f"{OURS} (re-ranked {options.rerank})": rows, **rows_of}
    runs = []
    for path, run in asked.runs.items():
        runs.append(path.name if path.name not in rows_of else f"run {path}")
        rows_of[runs[-1]] = run_rows(run, judged.queries, catalogue, deep)

    relevance = judged.relevance(len(catalogue.ids), options.relevant_grade)
    pairs = judged.pairs(options.relevant_grade)
    if pairs.positive.all():
        pairs = with_negatives(pairs, seed=options.seed)
    values: dict[str, dict[str, Float64[np.ndarray, " Q"] | None]] = {}
    for name, rows in rows_of.items():
        ranker = rankers.get(name)
        values[name] = {**score(rows[:, : options.k], relevance), AUC: _auc(ranker, pairs, judged)}
    ndcg = {name: value for name, of in values.items() if (value := of["ndcg@10"]) is not None}
    listed = {name: (rows[:, : options.k] >= 0).any(axis=1) for name, rows in rows_of.items()}
    for name, run in zip(runs, asked.runs.values(), strict=True):
        listed[name] = np.array([query in run for query in judged.queries])

    return Evaluation(
        rows=_rows(values, listed, options.seed),
        queries=judged.queries,
        counts=counts(asked, judged, catalogue),
        settings=_settings(options, encoder, pairs),
        comparisons=compare(values, OURS, METRICS, seed=options.seed),
        slices=slice_rows(
            _slicings(options, texts, judged, relevance, catalogue, training),
            rows_of,
            ndcg,
            relevance,
            runs=runs,
            k=options.k,
            seed=options.seed,
        ),
        warnings=[*_tied(_cut(ours, options.k)), *_leaks(options, texts, judged, catalogue, training)],
        worst=worst(ndcg[OURS], _cut(ours, options.k), judged, texts, catalogue),
        weights=weights_by(np.concatenate(catalogue.weights), catalogue.attributes[options.weights_by])
        if options.weights_by
        else None,
    )


def _cut(ranking: Ranking, k: int) -> Ranking:
    return Ranking(ranking.rows[:, :k], ranking.scores[:, :k])


def _auc(ranker: Scored | None, pairs: Pairs, judged: Judged) -> Float64[np.ndarray, " Q"] | None:
    """The values of `auc_values`; None for a system without pair scores, and where there is no negative pair."""
    if ranker is None or not pairs.mixed:
        return None
    asked = np.stack([judged.place[pairs.query], pairs.product], axis=1)
    scores: list[Float32[np.ndarray, " n"]] = [
        ranker.scores(asked[start : start + PAIR_BLOCK]) for start in range(0, len(asked), PAIR_BLOCK)
    ]
    return auc_values(np.concatenate(scores), pairs.positive, pairs.query, len(judged.queries))


def _rows(
    values: Mapping[str, Mapping[str, Float64[np.ndarray, " Q"] | None]],
    listed: Mapping[str, Any],
    seed: int,
) -> list[SystemRow]:
    known = {(name, metric): column for name, of in values.items() for metric, column in of.items()}
    columns = {key: column for key, column in known.items() if column is not None}
    intervals = dict(zip(columns, bootstrap(np.stack(list(columns.values()), axis=1), seed=seed), strict=True))
    return [
        SystemRow(
            name=name,
            metrics={metric: _bounded(intervals.get((name, metric))) for metric in METRICS},
            per_query={metric: column for metric in PER_QUERY if (column := of[metric]) is not None},
            missing_queries=int((~listed[name]).sum()),
        )
        for name, of in values.items()
    ]


def _bounded(interval: Interval | None) -> Interval | None:
    """The linear values of ROC-AUC can lead an interval past its bounds."""
    return interval and Interval(interval.mean, max(interval.low, 0.0), min(interval.high, 1.0))


def _settings(options: EvaluateOptions, encoder: ProductEncoder, pairs: Pairs) -> dict[str, Any]:
    return {
        "model_fingerprint": encoder.fingerprint,
        "products": str(options.products),
        "queries": str(options.queries),
        "qrels": str(options.qrels),
        "columns": {field: list(c) if isinstance(c, tuple) else c for field, c in options.columns.items()},
        "image_dir": None if options.image_dir is None else str(options.image_dir),
        "train": None if options.train is None else str(options.train),
        "k": options.k,
        "gain": "2^grade - 1",
        "relevant_grade": options.relevant_grade,
        "rerank": options.rerank,
        "weights_by": options.weights_by,
        "auc": {"pairs": len(pairs), "negatives": "drawn" if pairs.drawn else "judged"},
        "interval": {"method": "percentile bootstrap over queries", "level": 0.95, "resamples": RESAMPLES},
        "comparison": "paired bootstrap and paired randomisation test over queries, Holm's correction within a metric",
        "seed": options.seed,
        "resamples": RESAMPLES,
        "slice_resamples": SLICE_RESAMPLES,
    }


def _slicings(
    options: EvaluateOptions,
    texts: Sequence[str],
    judged: Judged,
    relevance: Relevance,
    catalogue: Catalogue,
    training: TrainingData | None,
) -> list[Slicing]:
    rows = (relevance.keys % relevance.catalogue_size).tolist()
    shares = said([query_words(text) for text in texts], catalogue.titles, relevance)
    slicings = [by_length(texts)]
    if training is not None:
        slicings.append(by_seen(_text_keys(texts), training))
    slicings += [by_saying(shares, relevance), by_title(shares)]
    slicings.append(by_image(np.array([catalogue.pictured[row] > 0 for row in rows], np.bool_)))
    if training is not None:
        slicings.append(by_clicks(np.array(catalogue.id_keys, np.uint64)[rows], training))
    return slicings + [by_attribute(name, [catalogue.attributes[name][row] for row in rows]) for name in options.slices]


def _text_keys(texts: Sequence[str]) -> Any:
    return np.array([text_key(text) for text in texts], np.uint64)


def _leaks(
    options: EvaluateOptions,
    texts: Sequence[str],
    judged: Judged,
    catalogue: Catalogue,
    training: TrainingData | None,
) -> list[Warned]:
    if training is None:
        return []
    ids = np.array(catalogue.id_keys, np.uint64)
    listings = listing_keys(np.array(catalogue.title_keys, np.uint64), np.array(catalogue.image_keys, np.uint64))
    relevant = judged.grade >= options.relevant_grade
    rows = judged.row[relevant]
    return leaks(training, _text_keys(texts)[judged.query[relevant]], ids[rows], listings[rows], ids, listings)


def _tied(ranking: Ranking) -> list[Warned]:
    """Tells of a model that gives all products that it returns for a query one score, and does so often."""
    K = ranking.scores.shape[1]
    tied = int((ranking.scores[:, 0] == ranking.scores[:, -1]).sum()) if K > 1 else 0
    if tied <= TIED_SHARE * len(ranking.scores):
        return []
    return [
        Warned(
            "tied_scores",
            f"ours gives the first {K} products one and the same score for {tied:,} of {len(ranking.scores):,} "
            "queries, so that their order is that of their identifiers and says nothing: has the model collapsed?",
        )
    ]

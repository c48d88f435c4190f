import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import ir_measures
import jax
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG
from rich.console import Console

from maxsearch.cli import parse
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.evaluate import evaluate
from maxsearch.evaluation.metrics import METRICS, PER_QUERY
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.evaluation.runs import read_run
from maxsearch.evaluation.saved import require_table, write_per_query
from maxsearch.evaluation.table import print_table
from maxsearch.evaluation.weights import WeightRow
from tests.judged_words import WordEncoder, append, means, options, png, table

__all__ = ["WordEncoder", "options", "png"]  # the fixture, and what stands here for other tests


def test_a_perfect_model(options: EvaluateOptions) -> None:
    evaluation = evaluate(options, WordEncoder())
    names = ["ours", "ours, text only", "ours, image only", "BM25", "random"]
    assert [row.name for row in evaluation.rows] == names
    # Each query has 10 products of grade 2 and 30 of grade 1.
    ours = means(evaluation, "ours")
    # A product of the right colour alone is as close as one that is the right thing alone, and not relevant.
    assert ours.pop("auc") == pytest.approx((10 + 30 * (0.75 + 0.25 / 2)) / 40, abs=0.015)
    assert 0.6 < ours.pop("map") < 0.8
    assert ours == {name: 0.25 if name == "recall@10" else 1 for name in ours}
    assert evaluation.settings["auc"] == {"pairs": 1600, "negatives": "drawn"}
    assert means(evaluation, "BM25")["ndcg@10"] == 1
    assert means(evaluation, "random")["ndcg@10"] < 0.5
    assert means(evaluation, "ours, image only")["ndcg@10"] < 0.5
    assert evaluation.counts == {
        "products": 200,
        "products_rejected": {},
        "queries": 20,
        "queries_evaluated": 20,
        "queries_without_text": 0,
        "queries_without_judgments": 0,
        "queries_without_relevant_product": 0,
        "judged_queries_not_in_queries_file": 0,
        "judgments": 800,
        "judgments_of_products_not_in_catalogue": 0,
    }


def test_saved_run_gives_the_same_figures_elsewhere(options: EvaluateOptions, tmp_path: Path) -> None:
    append(options.products, *(f"x{number},red,a.png" for number in range(40)))  # many equal scores
    append(options.queries, "extra,red")
    evaluation = evaluate(replace(options, save_run=tmp_path / "out" / "ours.run"), WordEncoder())
    qrels: dict[str, dict[str, int]] = {}
    for row in csv.DictReader(options.qrels.open()):
        qrels.setdefault(row["query_id"], {})[row["product_id"]] = int(row["grade"])
    run = list(ir_measures.read_trec_run(str(tmp_path / "out" / "ours.run")))
    oracles = {"ndcg@10": nDCG(gains={1: 1, 2: 3}) @ 10, "recall@10": R @ 10, "recall@100": R @ 100, "mrr": RR}
    oracles |= {"precision@10": P @ 10, "hit@10": Success @ 10, "map": AP}
    theirs = ir_measures.calc_aggregate(list(oracles.values()), qrels, run)
    ours = means(evaluation, "ours")
    assert {name: ours[name] for name in oracles} == pytest.approx({n: theirs[o] for n, o in oracles.items()}, abs=1e-9)
    assert read_run(tmp_path / "out" / "ours.run")["extra"][:2] == ["x9", "x8"]  # of equal scores, as trec_eval does

    again = evaluate(replace(options, compare=[tmp_path / "out" / "ours.run"]), WordEncoder())
    for metric, values in again.row("ours.run").per_query.items():
        np.testing.assert_array_equal(values, again.row("ours").per_query[metric])


def test_under_an_explicit_mesh(options: EvaluateOptions) -> None:
    plain = evaluate(options, WordEncoder())
    kinds = (jax.sharding.AxisType.Explicit,) * 3
    mesh = jax.make_mesh((1, 1, 1), ("replica", "fsdp", "tensor"), axis_types=kinds, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        assert evaluate(options, WordEncoder()).to_json() == plain.to_json()


def test_what_is_left_out_is_counted(options: EvaluateOptions) -> None:
    append(options.products, "p000,red shoe again,a.png")
    append(options.queries, "empty,", "unjudged,red hat", "nothing,red hat", "elsewhere,red hat")
    append(options.qrels, "empty,p001,2", "nothing,p001,0", "elsewhere,far,2", "q0,far,2", "ghost,p001,1")
    evaluation = evaluate(options, WordEncoder())
    assert len(evaluation.queries) == 20
    assert means(evaluation, "ours")["ndcg@10"] == 1  # a product outside the catalogue is not missed
    counts = evaluation.counts
    assert counts["products_rejected"] == {"duplicate_id": 1}
    assert counts["queries_without_text"] == 1
    assert counts["queries_without_judgments"] == 1
    assert counts["queries_without_relevant_product"] == 2
    assert counts["judged_queries_not_in_queries_file"] == 1
    assert counts["judgments_of_products_not_in_catalogue"] == 2
    stream = io.StringIO()
    print_table(evaluation, Console(file=stream, width=100))
    assert "2 queries have no relevant product in the catalogue and were left out." in stream.getvalue()
    assert "duplicate_id 1" in stream.getvalue()


def test_relevant_grade(options: EvaluateOptions) -> None:
    evaluation = evaluate(replace(options, relevant_grade=2), WordEncoder())
    assert means(evaluation, "ours") == dict.fromkeys(METRICS, 1.0)
    assert evaluation.settings["auc"] == {"pairs": 800, "negatives": "judged"}


def test_compared_run(options: EvaluateOptions, tmp_path: Path) -> None:
    (tmp_path / "b.run").write_text("q0 Q0 stranger 1 9 t\nq0 Q0 p000 2 8 t\n")
    evaluation = evaluate(replace(options, compare=[tmp_path / "b.run"]), WordEncoder())
    row = evaluation.row("b.run")
    assert row.missing_queries == 19
    assert row.per_query["mrr"].tolist() == [0.5] + [0] * 19
    (tmp_path / "c.run").write_text("z Q0 p000 2 8 t\n")
    encoder = WordEncoder()
    with pytest.raises(
        MaxsearchError, match=r"c\.run ranks none of the judged queries: it has z, the judgments have q0"
    ):
        evaluate(replace(options, compare=[tmp_path / "c.run"]), encoder)
    assert encoder.encoded == 0


def test_catalogue_smaller_than_k(options: EvaluateOptions, tmp_path: Path) -> None:
    products = [{"product_id": f"p00{n}", "name": "red shoe", "image": ""} for n in range(3)]
    few = replace(options, products=table(tmp_path / "few.csv", products), k=500, save_run=tmp_path / "few.run")
    evaluation = evaluate(few, WordEncoder())
    assert means(evaluation, "ours")["recall@10"] == 1
    assert [row.name for row in evaluation.rows] == ["ours", "ours, text only", "BM25", "random"]  # no image at all
    assert read_run(tmp_path / "few.run")["q0"] == ["p002", "p001", "p000"]


def test_json_and_table(options: EvaluateOptions) -> None:
    evaluation = evaluate(options, WordEncoder())
    value = json.loads(json.dumps(evaluation.to_json(per_query=True)))
    ours = value["systems"][0]
    assert value["kind"] == "maxsearch-evaluation" and value["schema_version"] == 2
    assert ours["metrics"]["recall@10"] == {"mean": 0.25, "low": 0.25, "high": 0.25}
    assert ours["per_query"]["mrr"] == [1.0] * 20 and value["queries"][3] == "q3"
    assert value["settings"]["gain"] == "2^grade - 1"
    assert value["settings"]["model_fingerprint"] == WordEncoder.fingerprint
    assert [one["system"] for one in value["comparisons"] if one["metric"] == "auc"] == [
        "ours, text only",
        "ours, image only",
        "BM25",
        "random",
    ]
    chance = value["comparisons"][-9]
    assert (chance["system"], chance["against"], chance["metric"]) == ("random", "ours", "ndcg@10")
    assert chance["mean"] < chance["high"] < 0 and chance["p"] < chance["p_corrected"] < 0.001
    worst = value["worst"][0]
    assert (worst["query_id"], worst["value"], len(value["worst"])) == ("q0", 1, 20)
    assert worst["returned"][0] == {"product_id": "p180", "title": "red shoe", "grade": 2, "score": 4.0}
    assert worst["wanted"][0] == {"product_id": "p000", "title": "red shoe", "grade": 2, "rank": 10}


def shown(evaluation: object, width: int, **more: bool) -> str:
    stream = io.StringIO()
    print_table(evaluation, Console(file=stream, width=width), **more)
    return stream.getvalue()


def test_table_fits_80_columns_with_many_systems(options: EvaluateOptions, tmp_path: Path) -> None:
    runs = [tmp_path / f"a_system_with_a_rather_long_name_{number}.run" for number in range(3)]
    for path in runs:
        path.write_text("q0 Q0 p000 1 9 t\n")
    rows = [row | {"colour": row["name"].split()[0]} for row in csv.DictReader(options.products.open())]
    coloured = replace(options, products=table(tmp_path / "coloured.csv", rows), slices=("colour",), compare=runs)
    evaluation = evaluate(coloured, WordEncoder())
    short = shown(evaluation, 80)
    assert "1.000 1.000-1.000" in short and "recall@10 " not in short and "query length" not in short
    full = shown(evaluation, 80, all_metrics=True, slices=True)
    assert all(name in full for name in ("precision@10", "relevance@10", "hit@10", "MAP", "AUC"))
    assert all(
        name in full for name in ("colour ", "(of products)", "±0.000", "One part only, and so no table: query length")
    )
    for text in (short, full):
        tables = [line for line in text.splitlines() if not line.endswith(".")]
        assert max(map(len, tables)) <= 80 and "…" not in text
    assert sum("system" in line for line in shown(evaluation, 160, all_metrics=True).splitlines()[:-1]) < sum(
        "system" in line for line in full.splitlines()[:-1]
    )


def test_modality_weights_by_an_attribute(options: EvaluateOptions, tmp_path: Path) -> None:
    rows = list(csv.DictReader(options.products.open()))
    for number, row in enumerate(rows):
        row["colour"] = row["name"].split()[0] if number else ""
        row["number"] = str(number)
    options = replace(options, products=table(tmp_path / "coloured.csv", rows), weights_by="colour")
    evaluation = evaluate(options, WordEncoder())
    expected = [("black", 50, 0.5), ("blue", 50, 0.5), ("green", 50, 0.5), ("red", 49, 0.25), ("", 1, 0.25)]
    assert evaluation.weights == [WeightRow(value, count, title, 1 - title) for value, count, title in expected]
    assert evaluation.to_json()["weights"]["attribute"] == "colour"
    assert evaluation.to_json()["weights"]["rows"][3] == {"value": "red", "products": 49, "title": 0.25, "image": 0.75}
    stream = io.StringIO()
    print_table(evaluation, Console(file=stream, width=100))
    assert ["red", "49", "0.250", "0.750"] in [line.split() for line in stream.getvalue().splitlines()]
    assert "(none)" in stream.getvalue()
    assert evaluate(replace(options, weights_by=None), WordEncoder()).to_json()["weights"] is None

    many = io.StringIO()
    print_table(evaluate(replace(options, weights_by="number"), WordEncoder()), Console(file=many, width=100))
    assert "180 rarer values are in the JSON of --out." in many.getvalue()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("imge", r"--weights-by: the products file .*products\.csv has no column 'imge': did you mean 'image'\?"),
        ("name", "--weights-by name is a field of the product and no attribute: name another column"),
    ],
)
def test_an_attribute_that_is_none(options: EvaluateOptions, column: str, message: str) -> None:
    encoder = WordEncoder()
    with pytest.raises(UsageError, match=message):
        evaluate(replace(options, weights_by=column), encoder)
    assert encoder.encoded == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "qrels",
            "query_id,product_id,grade\nq1,other,2\n",
            "the judgments name other, the catalogue has p000, p001, p002, ...",
        ),
        (
            "qrels",
            "query_id,product_id,grade\nz1,p001,2\n",
            "the queries are q0, q1, q2, ..., the judgments are for z1",
        ),
        ("qrels", "query_id,product_id,grade\nq1,p001,0\n", "there is nothing to measure; check the grades"),
        ("queries", "query_id,query\nq1,\n", "there is nothing to measure"),
        ("products", "product_id,name\n", "holds no product"),
        ("products", "product_id,name\na,x\na,y\n,z\n", "2 of 3 rows of the products file"),
    ],
)
def test_files_that_do_not_fit_together(options: EvaluateOptions, name: str, text: str, message: str) -> None:
    getattr(options, name).write_text(text)
    with pytest.raises(MaxsearchError) as caught:
        evaluate(options, WordEncoder())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_bad_rows_name_reason_row_and_flag(options: EvaluateOptions) -> None:
    append(options.products, *(f"p00{n},again,a.png" for n in range(5)))
    with pytest.raises(MaxsearchError) as caught:
        evaluate(options, WordEncoder())
    assert "5 of 205 rows" in str(caught.value)
    assert "5 of them for duplicate_id (row 201 repeats the product_id 'p000' of row 1)" in str(caught.value)
    assert "--max-bad-fraction 0.01" in str(caught.value)
    assert evaluate(replace(options, max_bad_fraction=0.05), WordEncoder()).counts["products"] == 200


def test_missing_title_column_is_told_first(options: EvaluateOptions) -> None:
    with pytest.raises(UsageError, match="nmae"):
        evaluate(replace(options, columns={"title": "nmae"}), WordEncoder())


def test_identifiers_that_a_run_cannot_hold(options: EvaluateOptions, tmp_path: Path) -> None:
    append(options.products, "has space,red hat,a.png")
    with pytest.raises(MaxsearchError, match=r"'has space' holds white space, which a TREC run cannot: .* --save-run"):
        evaluate(replace(options, save_run=tmp_path / "a.run"), WordEncoder())
    assert evaluate(options, WordEncoder()).counts["products"] == 201


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 10}, "-k 10 is too few ranks for recall@100"),
        ({"relevant_grade": 0}, "--relevant-grade 0"),
        ({"max_bad_fraction": 2.0}, "--max-bad-fraction 2.0"),
        ({"save_run": Path("/")}, "--save-run / is a folder"),
        ({"save_runs": Path(__file__)}, "is a file: give the name of a folder"),
        ({"seed": -1}, "--seed -1 is below 0"),
        ({"slices": ("a", "a")}, "--slice a is given twice"),
    ],
)
def test_options_that_cannot_be_used(options: EvaluateOptions, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(options, **change)
    assert message in str(caught.value)


def test_runs_of_every_system_and_figures_of_every_query(options: EvaluateOptions, tmp_path: Path) -> None:
    evaluation = evaluate(replace(options, save_runs=tmp_path / "runs"), WordEncoder())
    names = ["bm25.run", "ours-image-only.run", "ours-text-only.run", "ours.run", "random.run"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    again = evaluate(replace(options, compare=[tmp_path / "runs" / name for name in names]), WordEncoder())
    for system, name in (("BM25", "bm25.run"), ("random", "random.run"), ("ours, image only", "ours-image-only.run")):
        for metric in PER_QUERY:
            np.testing.assert_array_equal(
                again.row(name).per_query[metric], evaluation.row(system).per_query[metric], err_msg=f"{name} {metric}"
            )
        assert again.row(name).metrics["auc"] is None  # a run scores no pair that it does not list

    write_per_query(tmp_path / "a.csv", evaluation)
    write_per_query(tmp_path / "a.parquet", evaluation)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["system"] for row in rows[::20]] == [row.name for row in evaluation.rows]
    assert float(rows[41]["map"]) == evaluation.row("ours, image only").per_query["map"][1]
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "a.parquet").to_pylist()
    assert [{name: str(value) for name, value in row.items()} for row in parquet] == rows
    with pytest.raises(UsageError, match=r"--per-query .*a\.txt names no table: give a file that ends in \.csv or"):
        require_table(tmp_path / "a.txt")


def test_flags_that_may_come_several_times() -> None:
    words = ["evaluate", "--model", "m", "--products", "p", "--queries", "q", "--qrels", "r"]
    command = parse(
        [*words, "--slice", "brand", "colour", "--slice", "size", "--baseline", "bm25", "--baseline", "a", "b"]
    )
    assert command.slice == (("brand", "colour"), ("size",))
    assert command.baseline == (("bm25",), ("a", "b"))
    assert parse(words).slice == ()

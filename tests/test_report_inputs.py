"""What a report reads: other versions and damaged files are refused in a sentence, odd numbers are left out."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.report.inputs.ablation import read_ablation
from maxsearch.report.inputs.collect import ReportOptions, collect, named_paths
from maxsearch.report.inputs.evaluation import read_evaluation
from maxsearch.report.inputs.run import read_run, read_series
from maxsearch.report.inputs.tuning import read_tuning
from maxsearch.report.pictures import PictureSource, read_pictures
from maxsearch.report.words import without_folders
from tests import report_files as made
from tests import tiny


def test_an_evaluation_is_read(tmp_path: Path) -> None:
    found = read_evaluation(made.write(tmp_path / "a.json", made.evaluation()), "a")
    assert found.main is not None and found.main.name == "ours"
    assert found.main.metrics["ndcg@10"].mean == pytest.approx(0.7)
    assert found.worst[0].wanted[1].rank is None
    comparison = found.comparison("BM25", "ndcg@10")
    assert comparison is not None and comparison.mean == pytest.approx(-0.45)
    assert found.comparison("BM25", "map") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 1}, "has schema version 1 and this maxsearch reads version 2: run `maxsearch evaluate"),
        ({"kind": "maxsearch-ablation"}, "is no evaluation (its kind is 'maxsearch-ablation'"),
        ({"systems": None}, 'is damaged (missing value for field "systems")'),
        ({"systems": [{"name": 3, "metrics": {}}]}, "is damaged (wrong value type for field"),
        ({"counts": [1]}, "is damaged (wrong value type for field"),
    ],
)
def test_an_evaluation_of_another_shape_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = made.write(tmp_path / "a.json", made.evaluation(**changes))
    with pytest.raises(MaxsearchError) as error:
        read_evaluation(path, "a")
    assert str(path) in str(error.value) and said in str(error.value) and "--evaluation" in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\x00"])
def test_what_is_no_evaluation_at_all_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    for read in (read_evaluation, read_ablation):
        with pytest.raises(MaxsearchError, match=r"a\.json"):
            read(path, "a")
    with pytest.raises(MaxsearchError, match=r"a\.json"):
        read_tuning(path)
    with pytest.raises(MaxsearchError, match="is a folder"):
        read_evaluation(tmp_path, "a")
    with pytest.raises(MaxsearchError, match="no ablation at"):
        read_ablation(tmp_path, "a")


@pytest.mark.parametrize("odd", made.NOT_NUMBERS)
def test_a_figure_that_is_no_number_is_as_one_that_is_not_there(tmp_path: Path, odd: float) -> None:
    changed = made.evaluation()
    changed["systems"][0]["metrics"] |= {"map": {"mean": odd, "low": 0, "high": 1}, "auc": None}
    changed["slices"][0]["systems"]["BM25"]["low"] = odd
    changed["comparisons"][0]["p"] = odd
    changed["weights"]["rows"][0]["title"] = odd
    found = read_evaluation(made.write(tmp_path / "a.json", changed), "a")
    assert found.main is not None and not {"map", "auc"} & found.main.metrics.keys()
    assert "BM25" not in found.slices[0].systems and len(found.comparisons) == len(changed["comparisons"]) - 1
    assert found.weights is not None and len(found.weights.rows) == 1

    ladder = made.ablation()
    ladder["rungs"][1]["metrics"]["ndcg@10"]["difference"]["p"] = odd
    ladder["rungs"][2]["metrics"]["ndcg@10"]["mean"] = odd
    rungs = read_ablation(made.write(tmp_path / "ablation.json", ladder), "b").rungs
    assert rungs[1].metrics["ndcg@10"].difference is None and not rungs[2].metrics

    measured = made.tuning()
    measured["settings"][0]["milliseconds"] = odd
    measured["settings"][1]["recall@10"] = odd
    found_tuning = read_tuning(made.write(tmp_path / "t.json", measured))
    assert len(found_tuning.measured) == 3 and "recall@10" not in found_tuning.measured[0].recalls
    assert found_tuning.measured[0].chosen


def test_huge_whole_numbers_are_no_numbers(tmp_path: Path) -> None:
    changed = made.evaluation()
    changed["systems"][0]["metrics"]["map"]["mean"] = 10**400
    found = read_evaluation(made.write(tmp_path / "a.json", changed), "a")
    assert found.main is not None and "map" not in found.main.metrics


def test_a_run_folder_is_read(tmp_path: Path) -> None:
    found = read_run(made.run(tmp_path / "one"))
    assert (found.name, found.steps, found.seconds, found.shares["steps"]) == ("one", 40, 100.0, 0.84)
    assert found.parameters > 1000 and found.processes == []
    assert list(found.series)[:2] == ["loss", "loss/query_product"]


def test_logged_numbers_that_are_none_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": 3, "odd": "x"}\n{"step": 3, "loss": Infin')
    (name, series), *others = read_series(path).items()
    assert (name, series.dropped, others) == ("loss", 1, [])
    np.testing.assert_array_equal(series.steps, [2.0])
    assert read_series(tmp_path / "none.jsonl") == {}


@pytest.mark.parametrize("line", ["{", '{"loss": 1}', "[]", '{"step": "x"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n' + line + '\n{"step": 3, "loss": 1}\n')
    with pytest.raises(MaxsearchError, match=r"line 2 of .*metrics.jsonl is no object with a step"):
        read_series(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("goodput.jsonl", '{"began": 1}'),
        ("goodput.jsonl", "x"),
        ("environment.json", "[]"),
        ("environment.json", "{"),
        ("data.json", "1"),
    ],
)
def test_damaged_files_of_a_run_are_named(tmp_path: Path, name: str, content: str) -> None:
    run = made.run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(MaxsearchError, match=name):
        read_run(run)


def test_names_of_files(tmp_path: Path) -> None:
    odd = made.write(tmp_path / "a=b.json", {})
    assert named_paths([str(odd)], "--evaluation") == {"a=b": odd}
    assert named_paths(["full=x/a.json", "b.json"], "-e") == {"full": Path("x/a.json"), "b": Path("b.json")}
    assert list(named_paths(["ladder/ablation.json"], "--ablation")) == ["ladder"]
    with pytest.raises(UsageError, match="gives the name 'a' twice"):
        named_paths(["x/a.json", "y/a.json"], "--evaluation")
    with pytest.raises(UsageError, match="not of the form NAME=PATH"):
        named_paths(["=a.json"], "--evaluation")


def test_pictures_are_small_and_of_the_products_asked_for(tmp_path: Path) -> None:
    source = PictureSource(made.products(tmp_path / "products.parquet"))
    found = read_pictures(source, {"p0", "p4", "elsewhere"})
    assert found.known == {"p0", "p4"}
    assert list(found.by_id) == ["p0"], "the picture of p4 is broken"
    assert len(found.by_id["p0"]) < 10_000
    with pytest.raises(MaxsearchError, match=r"holds none of the 1 products .* to --products"):
        read_pictures(source, {"elsewhere"})


def test_a_catalogue_that_is_gone_leaves_the_pictures_out(tmp_path: Path) -> None:
    settings = made.evaluation()["settings"]
    gone = settings | {"products": str(tmp_path / "secret" / "gone.parquet")}
    there = settings | {"products": str(made.products(tmp_path / "products.parquet"))}
    other = settings | {"products": str(made.products(tmp_path / "other.parquet", 1))}
    paths = {
        name: made.write(tmp_path / f"{name}.json", made.evaluation(settings=one))
        for name, one in {"gone": gone, "there": there, "unnamed": settings, "other": other}.items()
    }
    pq_other = tmp_path / "other.parquet"
    pq_other.write_bytes(b"no parquet")
    run = made.run(tmp_path / "run")
    found = collect(ReportOptions(run=run, evaluations=paths)).pictures
    assert "gone.parquet is no longer where it was" in found["gone"].absent and "secret" not in found["gone"].absent
    assert found["there"].absent == "" and len(found["there"].by_id) == 5
    assert "does not name its catalogue" in found["unnamed"].absent
    assert found["other"].absent.startswith("The pictures are left out") and str(tmp_path) not in found["other"].absent
    with pytest.raises(MaxsearchError, match=r"other\.parquet"):
        collect(ReportOptions(run=run, evaluations=paths, products=pq_other))


def test_the_training_data_come_from_what_the_run_noted(tmp_path: Path) -> None:
    run = made.run(tmp_path / "run")
    assert "--data DATA" in collect(ReportOptions(run=run)).no_manifest
    train = made.evaluation()["settings"] | {"train": str(tiny.data())}
    told = {"a": made.write(tmp_path / "a.json", made.evaluation(settings=train))}
    assert list(collect(ReportOptions(run=run, evaluations=told)).manifests) == [tiny.data().name]
    made.write(run / "data.json", {"data": [f"shop={tiny.data()}"]})
    found = collect(ReportOptions(run=run))
    assert list(found.manifests) == [tiny.data().name] and found.no_manifest == ""
    made.write(run / "data.json", {"data": ["/home/someone/gone"]})
    assert "the training data gone are no longer" in collect(ReportOptions(run=run)).no_manifest.lower()
    made.write(run / "data.json", {"data": ["tfds:coco"]})
    assert "tfds:coco" in collect(ReportOptions(run=run)).no_manifest
    with pytest.raises(MaxsearchError, match="no data manifest"):
        collect(ReportOptions(run=run, data=[tmp_path]))


NAMES = st.text(st.characters(categories=("L", "N"), include_characters="._-"), min_size=1, max_size=8)


@given(st.lists(NAMES, min_size=2, max_size=5))
def test_folders_are_cut_off(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    assert without_folders(f"lost {path} there") == f"lost {parts[-1]} there"
    assert without_folders(f"see '{path}': mend it") == f"see '{parts[-1]}': mend it"


@pytest.mark.parametrize("kept", ["gs://bucket/folder/x", "2^grade - 1", "a/b", "1/2 of it", "(^|/)(bias|scale)$"])
def test_what_is_no_path_of_a_machine_stays(kept: str) -> None:
    assert without_folders(kept) == kept

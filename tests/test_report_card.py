"""The model card: what the Hub's library reads of it, and what it owns up to."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from maxsearch.report.card import card
from maxsearch.report.inputs.collect import Inputs, ReportOptions, collect
from tests import report_files as made
from tests import tiny
from tests.test_datastats_page import EVIL


def inputs(folder: Path, *evaluations: dict[str, object], data: bool = True) -> Inputs:
    paths = {f"set{at}": made.write(folder / f"{at}.json", one) for at, one in enumerate(evaluations)}
    return collect(ReportOptions(made.run(folder / "run"), paths, data=[tiny.data()] if data else []))


def test_the_hub_reads_the_card(tmp_path: Path) -> None:
    made.run(tmp_path / "run")
    evaluation = made.write(tmp_path / "dev.json", made.evaluation())
    tiny.quiet(
        *("report", "--run", tmp_path / "run", "--evaluation", evaluation, "--data", tiny.data()),
        *("--out", tmp_path / "report.html", "--card", tmp_path / "README.md"),
        *("--license", "apache-2.0", "--model-name", "shop-search", "--datasets", "shop/clicks"),
    )
    found = ModelCard.load(tmp_path / "README.md")
    said = found.data.to_dict()
    assert (said["license"], said["library_name"], said["pipeline_tag"]) == (
        "apache-2.0",
        "maxsearch",
        "feature-extraction",
    )
    assert said["datasets"] == ["shop/clicks"] and "multimodal" in said["tags"]
    assert said["metrics"][:2] == ["ndcg@10", "recall@10"] and said["model-index"][0]["name"] == "shop-search"
    results = found.data.eval_results
    assert results is not None and len(results) == len(made.METRICS)
    first = results[0]
    assert (first.dataset_name, first.metric_type, first.metric_value) == ("dev", "ndcg@10", 0.7)
    assert first.metric_args == {"interval": 0.95, "low": 0.68, "high": 0.72, "queries": 300}
    assert "# shop\\-search" in found.text or "# shop-search" in found.text
    again = ModelCard(str(found))
    assert again.data.to_dict() == said


def test_it_owns_up_to_weak_slices_leaks_and_few_queries(tmp_path: Path) -> None:
    changed = made.evaluation()
    changed["slices"].append(made.part("category", "Hats", -0.05))
    changed["slices"][-1]["systems"]["ours"] = made.interval(0.3)
    better = {"system": "BM25", "against": "ours", "metric": "ndcg@10", "mean": 0.1, "low": 0.05, "high": 0.15}
    changed["comparisons"].append(better | {"p": 0.001, "p_corrected": 0.004})
    text = card(inputs(tmp_path, changed), name=None, license_id=None, datasets=()).text
    limits = text.split("## Limits")[1].split("## Training data")[0]
    for piece in (
        "weak where category: Hats (nDCG@10 0.300, 95 % interval 0.280 to 0.320, against 0.700 overall)",
        "7 judged pairs also occur in train",
        "category: Apparel (12)",
        "title says the query: fully (+0.010)",
        "not better by nDCG@10 than BM25 (-0.100, corrected p = 0.004)",
    ):
        assert piece in limits, piece
    data = text.split("## Training data")[1].split("## Training procedure")[0]
    assert "fingerprint" in data and "150" in data
    assert "/home/someone" not in text and str(tmp_path) not in text and str(tiny.data().parent) not in text
    assert "40 steps of 16 pairs in 100 s, goodput 84.0 %" in text
    assert "maxsearch search" in text and "## Licence" not in text


def test_evaluations_of_another_model_stay_off_the_card(tmp_path: Path) -> None:
    ours, others = (
        made.evaluation(settings=made.evaluation()["settings"] | {"model_fingerprint": name}) for name in "ab"
    )
    found = card(inputs(tmp_path, ours, others, ours), name=None, license_id=None, datasets=())
    assert found.data.eval_results is not None
    assert {one.dataset_name for one in found.data.eval_results} == {"set0", "set2"} and "set1" not in found.text


def test_a_run_that_was_not_evaluated_has_a_card_too(tmp_path: Path) -> None:
    found = card(inputs(tmp_path, data=False), name=None, license_id=None, datasets=())
    assert found.data.eval_results is None and "model-index" not in found.data.to_dict()
    assert "nothing is known of its quality" in found.text and "--data DATA" in found.text


@pytest.mark.parametrize(
    "odd", [EVIL, "a | b", "---\nlicense: mit", "`code` $x$", "", "\u202eright to left", "x" * 10_000]
)
def test_texts_of_the_files_are_only_texts(tmp_path: Path, odd: str) -> None:
    changed = made.evaluation(warnings=[{"code": odd, "message": odd}])
    changed["systems"][3]["name"] = odd
    changed["slices"][0] |= {"slice": odd, "value": odd}
    found = ModelCard(str(card(inputs(tmp_path, changed), name=odd or None, license_id=None, datasets=())))
    assert found.data.to_dict().get("license") is None
    assert "<script" not in found.text.replace("\\<", "") and "\n---\n" not in found.text
    (head,) = {line.count("|") - line.count("\\|") for line in found.text.splitlines() if line.startswith("| ours")}
    rows = [line for line in found.text.splitlines() if line.startswith("| ") and "0.250 (" in line]
    assert rows and all(line.count("|") - line.count("\\|") == head for line in rows)

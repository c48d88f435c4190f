import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving import tuning as tuning_module
from maxsearch.serving.build import build_index
from maxsearch.serving.index import IndexOptions, open_index
from maxsearch.serving.scann_index import Effort, ScannSettings
from maxsearch.serving.tuning import print_tuning, tune
from tests.serving_fakes import CATALOGUE, FakeEncoder, folder_bytes
from tests.test_index import many, needs_scann


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_module, "SECONDS", 0.001)
    monkeypatch.setattr(tuning_module, "WIDTHS", (1, 8))
    monkeypatch.setattr(tuning_module, "TUNED_REORDERED", (30, 300))


@needs_scann
def test_the_fastest_setting_that_reaches_the_target_is_kept(tmp_path: Path) -> None:
    build_index(FakeEncoder.make(), many(1500), tmp_path / "index", IndexOptions("scann"))
    index = open_index(tmp_path / "index")
    before = folder_bytes(tmp_path / "index")
    tuning = tune(index, index.probes(), target_recall=0.9, k=20)
    assert tuning["kind"] == "maxsearch-index-tuning" and tuning["schema_version"] == 1
    assert (tuning["count"], tuning["dim"], tuning["queries"], tuning["k"]) == (1500, 24, 256, 20)
    assert (tuning["index"], tuning["target_recall"]) == (str(tmp_path / "index"), 0.9)
    settings = tuning["settings"]
    assert settings[0]["setting"] == {"exact": True} and settings[0]["recall@10"] == settings[0]["recall@100"] == 1
    assert {tuple(one["setting"]) for one in settings[1:]} == {("leaves_to_search", "reordered")}
    reaching = [one for one in settings if one["recall@20"] >= 0.9]
    assert tuning["chosen"] == min(reaching, key=lambda one: one["milliseconds"])["setting"]
    assert all(one["queries_per_second"] > 0 for one in settings)
    json.dumps(tuning)
    after = folder_bytes(tmp_path / "index")
    assert [name for name in before if after[name] != before[name]] == ["manifest.json"]
    index = open_index(tmp_path / "index")
    kept = index.manifest["index"]
    assert [effort["depth"] for effort in kept["efforts"]] == [10, 20, 100]
    assert index.options.target_recall == 0.9  # a compaction reaches for it too
    chosen = {"exact": True} if kept["efforts"][1]["leaves_to_search"] == 0 else tuning["chosen"]
    assert chosen == tuning["chosen"]
    assert index.nearest.search(index.probes(), 20)[0].shape == (256, 20)
    stream = io.StringIO()
    print_tuning(tuning, Console(file=stream, width=120))
    assert stream.getvalue().count("*") == 1


def test_an_exact_index_has_nothing_to_tune(tmp_path: Path) -> None:
    build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index")
    before = folder_bytes(tmp_path / "index")
    index = open_index(tmp_path / "index")
    tuning = tune(index, index.probes())
    assert tuning["chosen"] == {"exact": True} and len(tuning["settings"]) == 1
    assert folder_bytes(tmp_path / "index") == before


def test_what_cannot_be_tuned_for_is_refused(tmp_path: Path) -> None:
    build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index")
    index = open_index(tmp_path / "index")
    with pytest.raises(UsageError, match="--target-recall 95 is no recall"):
        tune(index, index.probes(), target_recall=95.0)
    with pytest.raises(UsageError, match="-k must be at least 1, not 0"):
        tune(index, index.probes(), k=0)
    for queries in (index.probes()[:0], np.full((1, 24), np.nan, np.float32)):
        with pytest.raises(MaxsearchError, match="no queries with finite vectors to tune with"):
            tune(index, queries)


def test_deeper_searches_than_were_measured_do_that_much_more() -> None:
    settings = ScannSettings(50, (Effort(10, 4, 100, 0.99), Effort(100, 8, 300, 0.99)))
    assert [settings.effort(k).leaves_to_search for k in (1, 10, 11, 100, 200, 10_000)] == [4, 4, 8, 8, 16, 50]
    assert settings.effort(250).reordered == 750
    exact = ScannSettings(50, (Effort(10, 0, 0, 1.0),))
    assert exact.effort(1000).leaves_to_search == 0

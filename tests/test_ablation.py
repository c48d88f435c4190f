"""A ladder of three rungs and two seeds, whose runs are drawn figures where a test does not need a real one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from maxsearch.ablation import ablate as module
from maxsearch.ablation.ablate import AblateOptions, ablate
from maxsearch.ablation.jobs import named_data
from maxsearch.ablation.ladder import Rung, ladder_names, load_ladder
from maxsearch.ablation.launch import launch, reason
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.bootstrap import bootstrap
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.presets import preset_names
from tests import tiny

LADDER = """
from dataclasses import replace
from maxsearch.ablation.ladder import Rung
from maxsearch.presets import load_preset

def get_ladder():
    config = load_preset({preset!r})
    fused = Rung("fused", config)
    alone = config.loss.with_weights(dict(query_product=0.0, query_image=0.0))
    return [Rung("words", replace(config, loss=alone), part="title"), fused, Rung("picture", config, part="image")]
"""


@cache
def ladder() -> Path:
    path = tiny.folder() / "ladder.py"
    path.write_text(LADDER.format(preset=str(tiny.preset())))
    return path


def options(out: Path, **changes: object) -> AblateOptions:
    raw = tiny.catalogue()
    evaluation = EvaluateOptions(
        products=raw / "products.test.parquet", queries=raw / "queries.test.csv", qrels=raw / "qrels.test.tsv"
    )
    given = AblateOptions(load_ladder(str(ladder())), {"": str(tiny.data())}, evaluation, out, (0, 1), steps=4)
    return replace(given, **changes)  # type: ignore[arg-type]


def drawn(folder: Path, *_: object) -> None:
    """Stands for a run: figures drawn at random, always the same for a rung and seed."""
    job = json.loads((folder / "job.json").read_text())
    rng = np.random.default_rng([job["config"]["seed"], len(folder.parent.name)])
    systems = [
        {"name": name, "per_query": {metric: rng.uniform(size=50).tolist() for metric in ("ndcg@10", "recall@100")}}
        for name in ("ours", "ours, text only", "ours, image only", "BM25")
    ]
    figures = {"systems": systems, "queries": [f"q{number}" for number in range(50)], "counts": {"products": 9}}
    figures["training"] = {"steps": job["config"]["train"]["steps"], "seconds": 60.0}
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "figures.json").write_text(json.dumps(figures))


@cache
def finished() -> Path:
    """An ablation that nothing interrupts; not to be changed, copy it first."""
    out = tiny.folder() / "ablation"
    assert ablate(options(out), drawn) is not None
    return out


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished(), tmp_path / "out"))


def never(folder: Path, stop: list[int], cache: Path, title: str) -> str | None:
    raise AssertionError(f"{folder} was run")


def words(out: Path, *more: object) -> list[object]:
    flags = tiny.evaluate_words()[1:]
    return ["ablate", ladder(), "--data", tiny.data(), *flags, "--out", out, "--seeds", 0, 1, "--steps", 4, *more]


def figures(out: Path) -> dict:
    return json.loads((out / "ablation.json").read_text())


def test_p_values_are_corrected_for_the_number_of_rungs_that_are_compared() -> None:
    for metric in ("ndcg@10", "recall@100"):
        found = [rung["metrics"][metric]["difference"] for rung in figures(finished())["rungs"]]
        compared = [difference for difference in found if difference is not None]
        assert len(compared) == 2
        low, high = sorted(compared, key=lambda difference: difference["p"])
        assert low["p_corrected"] == min(1, 2 * low["p"])
        assert high["p_corrected"] == max(low["p_corrected"], high["p"])


def test_the_figures_are_those_of_the_runs() -> None:
    out = finished()
    found = figures(out)
    assert (found["seeds"], found["failed"], found["kind"]) == ([0, 1], {}, "maxsearch-ablation")
    rungs = {rung["name"]: rung for rung in found["rungs"]}
    assert list(rungs) == ["words", "fused", "picture"]
    assert {rung["complete"] for rung in rungs.values()} == {True}
    # Equal configs are trained once.
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["fused", "words"]
    assert rungs["picture"]["run"] == "fused"

    def values(run: str, system: str) -> np.ndarray:
        runs = [json.loads((out / "runs" / run / seed / "figures.json").read_text()) for seed in ("0", "1")]
        assert [evaluated["training"]["steps"] for evaluated in runs] == [4, 4]
        return np.array(
            [row["per_query"]["ndcg@10"] for evaluated in runs for row in evaluated["systems"] if row["name"] == system]
        )

    seen = {
        "words": values("words", "ours, text only"),
        "fused": values("fused", "ours"),
        "picture": values("fused", "ours, image only"),
    }
    for name, by_query in seen.items():
        metric = rungs[name]["metrics"]["ndcg@10"]
        assert metric["by_seed"] == pytest.approx(by_query.mean(axis=1))
        assert metric["mean"] == pytest.approx(by_query.mean())
        assert metric["sd"] == pytest.approx(np.std(by_query.mean(axis=1), ddof=1))
    assert rungs["words"]["metrics"]["ndcg@10"]["difference"] is None
    difference = rungs["fused"]["metrics"]["ndcg@10"]["difference"]
    paired = (seen["fused"] - seen["words"]).mean(axis=0)
    interval = bootstrap(paired[:, None])[0]
    assert difference["mean"] == pytest.approx(paired.mean())
    # Other columns of the same resamples do not matter.
    assert (difference["low"], difference["high"]) == pytest.approx((interval.low, interval.high))


def test_the_table_and_the_plot_show_every_rung() -> None:
    out = finished()
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| words", "| fused", "| picture"]
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[3].split(" | ")[1] == "words"
    assert "picture: the runs of fused, ranked by the image's vector alone." in lines
    assert "words: ranked by the title's vector alone." in lines
    picture = (out / "ablation.svg").read_text()
    assert all(f">{name}<" in picture for name in ("words", "fused", "picture"))
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("runs/*/*/run/checkpoints"))


def test_a_difference_far_beyond_the_others_is_an_arrow_with_its_number(tmp_path: Path) -> None:
    def drawn_apart(folder: Path, *_: object) -> None:
        drawn(folder)
        path = folder / "figures.json"
        path.write_text(path.read_text().replace("0.", "0.000") if folder.match("runs/words/*") else path.read_text())

    rungs = load_ladder(str(ladder()))
    config = rungs[1].config
    loss = replace(config.loss, query_title=0.3)
    rungs += [Rung("less", replace(config, loss=loss), against="fused"), Rung("same", config, against="picture")]
    out = tmp_path / "out"
    ablate(options(out, ladder=rungs), drawn_apart)
    difference = figures(out)["rungs"][1]["metrics"]["ndcg@10"]["difference"]["mean"]
    picture = (out / "ablation.svg").read_text()
    assert f">{difference:+.3f}<" in picture
    assert picture.count("against") == 2 and ">(against fused)<" in picture and ">(against picture)<" in picture


def test_an_interrupted_ladder_goes_on_to_the_same_table(tmp_path: Path) -> None:
    def dies_after(count: int) -> Callable[..., str | None]:
        ran: list[Path] = []

        def run(folder: Path, *more: object) -> str | None:
            if len(ran) == count:
                raise KeyboardInterrupt
            ran.append(folder)
            drawn(folder)

        return run

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        ablate(options(out), dies_after(1))
    partial = figures(out)
    assert [rung["seeds"] for rung in partial["rungs"]] == [[0], [], []]
    assert "| words |" in (out / "table.md").read_text() and "0 of 2" in (out / "table.md").read_text()

    assert ablate(options(out), dies_after(3)) is not None
    assert figures(out) == figures(finished())
    assert (out / "table.md").read_text() == (finished() / "table.md").read_text()
    assert (out / "ablation.svg").read_bytes() == (finished() / "ablation.svg").read_bytes()
    assert ablate(options(out), never) is not None


def test_runs_are_processes_that_a_signal_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    shared = tmp_path / "shared.py"
    shared.write_text(
        LADDER.format(preset=str(tiny.preset())).replace(
            'return [Rung("words"', 'return [fused, Rung("picture", config, part="image")]; [Rung("words"'
        )
    )
    out = tmp_path / "out"
    command = [*words(out, "--seeds", 0), "--keep-runs"]
    command[1] = shared
    stop = f"""
import os, signal, threading, time
from pathlib import Path
def wait():
    while not Path({str(out / "runs" / "fused" / "0" / "run" / "metrics.jsonl")!r}).exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=wait, daemon=True).start()
"""
    stopped = tiny.spawn(command, script=stop)
    assert stopped.returncode == 0, stopped.stderr
    assert f"stopped, {out} holds what is finished; resume with: maxsearch ablate" in stopped.stdout
    assert [rung["seeds"] for rung in figures(out)["rungs"]] == [[], []]

    done = tiny.spawn(command)
    assert done.returncode == 0, done.stderr
    assert "nDCG@10" in done.stdout
    found = figures(out)
    assert [rung["seeds"] for rung in found["rungs"]] == [[0], [0]]
    assert found["queries"] > 0
    job = out / "runs" / "fused" / "0"
    evaluated = json.loads((job / "figures.json").read_text())
    assert evaluated["training"]["steps"] == 4
    assert {"ours", "ours, text only", "ours, image only", "BM25"} <= {row["name"] for row in evaluated["systems"]}
    assert "4" in {path.name for path in (job / "run" / "checkpoints").iterdir()}
    assert [line["step"] for line in tiny.metrics(job / "run")] == [1, 2, 3, 4]


def test_a_changed_rung_is_refused_until_it_is_redone(tmp_path: Path) -> None:
    out = copied(tmp_path)
    with pytest.raises(UsageError, match=r"the rung 'words' .*train\.steps was 4 and is now 5.*--redo 'words'"):
        ablate(options(out, steps=5), never)

    rungs = load_ladder(str(ladder()))
    loss = replace(rungs[0].config.loss, query_title=0.7)
    rungs[0] = replace(rungs[0], config=replace(rungs[0].config, loss=loss))
    with pytest.raises(UsageError, match=r"the rung 'words' .*query_title was 0\.5 and is now 0\.7"):
        ablate(options(out, ladder=rungs), never)

    ran: list[Path] = []

    def run(folder: Path, *more: object) -> str | None:
        assert not (folder / "run").exists()
        ran.append(folder)
        return "no luck"

    results = ablate(options(out, ladder=rungs, redo=["words"]), run)
    assert ran == [out / "runs" / "words" / "0", out / "runs" / "words" / "1"]
    assert results is not None and list(results.failed) == ["words, seed 0", "words, seed 1"]

    # What moves no figure may change.
    quicker = [
        replace(r, config=replace(r.config, name="x", train=replace(r.config.train, log_every=7))) for r in rungs
    ]
    ablate(options(out, ladder=quicker), run)


def test_a_failed_run_is_told_of_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def run(folder: Path, *more: object) -> str | None:
        if folder.match("runs/words/0"):
            return "at step 3 the loss is nan"
        drawn(folder)
        return None

    monkeypatch.setattr(module, "launch", run)
    code, said = tiny.fails(capsys, *words(out))
    assert code == 1
    assert said == (
        "maxsearch: 1 of 4 runs failed (words, seed 0): their logs say why; repeat the command to try them again"
    )
    found = figures(out)
    assert found["failed"] == {"words, seed 0": f"at step 3 the loss is nan; see {out}/runs/words/0/log.txt"}
    assert [rung["seeds"] for rung in found["rungs"]] == [[1], [0, 1], [0, 1]]
    assert "words, seed 0 failed: at step 3 the loss is nan" in (out / "table.md").read_text()


def test_launching_tells_why_a_process_failed(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{")
    why = launch(tmp_path, [], tmp_path / ".cache", "a run")
    assert why is not None and "job.json is not valid JSON" in why and "\n" not in why
    assert reason(-9, "step 3") == "its process was ended by SIGKILL, as happens when memory runs out"
    assert reason(3, "RuntimeError: boom") == "its process ended with code 3: RuntimeError: boom"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def get_ladder(): return []", "must define get_ladder"),
        ("x = (", "cannot be loaded"),
        ("def get_ladder(): return [R('a', C), R('a', C)]", "'a' has the same folder a, rename one of them"),
        ("def get_ladder(): return [R('a', C), R('+ A', C)]", "'a' has the same folder a"),
        ("def get_ladder(): return [R('++', C)]", "the name makes no folder"),
        (
            "a = R('a', C)\nobject.__setattr__(a, 'part', 'query')\ndef get_ladder(): return [a]",
            "no part 'query', choose one of product, title, image",
        ),
        ("def get_ladder(): return [R('a', C, against='b')]", "against 'b' is no other rung"),
        ("def get_ladder(): return [R('a', C, against='a')]", "against 'a' is no other rung"),
    ],
)
def test_broken_ladders_are_refused(tmp_path: Path, body: str, sentence: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"from maxsearch.ablation.ladder import Rung as R\nfrom maxsearch.config import Config\nC = Config()\n{body}\n"
    )
    with pytest.raises(UsageError) as refused:
        load_ladder(str(path))
    assert sentence in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--seeds", "1", "1"), "--seeds 1 1: give one or more different numbers from 0"),
        (("--seeds", "-1"), "--seeds -1: give one or more different numbers from 0"),
        (("--steps", "0"), "--steps must be at least 1, not 0"),
        (("--redo", "nope"), "--redo 'nope' is no rung of the ladder: choose from 'words', 'fused', 'picture'"),
        (("--data", "a", "b"), "--data b: a has that name already, give the further ones as NAME=DATA"),
    ],
)
def test_flags_are_checked_before_anything_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], sentence: str
) -> None:
    code, said = tiny.fails(capsys, *words(tmp_path / "out", *flags))
    assert (code, said) == (2, f"maxsearch: {sentence}")
    assert not (tmp_path / "out").exists()


def test_misplaced_folders_and_datasets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("x")
    with pytest.raises(UsageError, match=r"letters exists and holds no ablation: name a new folder"):
        ablate(options(tmp_path / "letters"), never)
    elsewhere = [Rung("a", tiny.config(), data="noisy")]
    with pytest.raises(UsageError, match=r"rung 'a' needs the dataset 'noisy', .* add --data noisy=PATH"):
        ablate(options(tmp_path / "out", ladder=elsewhere), never)
    with pytest.raises(MaxsearchError, match="no data manifest"):
        ablate(options(tmp_path / "out", data={"": str(tmp_path)}), never)
    with pytest.raises(UsageError, match=r"did you mean 'fashion'\?"):
        load_ladder("fashon")
    assert not (tmp_path / "out").exists()


def test_datasets_have_names() -> None:
    assert named_data(["data", "noisy=a/b=c"]) == {"": "data", "noisy": "a/b=c"}
    assert named_data(["tfds:coco", "./x=y"][1:]) == {"": "./x=y"}


def test_the_fashion_ladder_has_the_rungs_of_the_results() -> None:
    assert "fashion" in ladder_names()
    assert not set(preset_names()) & {"ladders", "ladders/fashion"}
    rungs = load_ladder("fashion")
    assert len(rungs) == 11
    assert len({rung.config.train.steps for rung in rungs}) == 1
    assert len({replace(rung.config, name="").fingerprint() for rung in rungs}) == 11
    assert [rung.name for rung in rungs if rung.part != "product"] == ["text only", "image only"]
    assert [rung.name for rung in rungs if not rung.against] == ["text only", "image only"]


def test_the_methods_ladder_has_every_method_at_one_size() -> None:
    rungs = load_ladder("methods")
    assert {f"methods/{rung.name}" for rung in rungs[1:]} == {n for n in preset_names() if n.startswith("methods/")}
    assert {rung.against for rung in rungs[1:]} == {"plain"}
    sizes = {(rung.config.train, rung.config.data, rung.config.model.title.width) for rung in rungs}
    assert len(sizes) == 1

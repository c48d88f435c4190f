"""Training in this process, on the eight simulated devices."""

import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from maxsearch.data.synthetic import write_catalogue
from maxsearch.training import budget
from maxsearch.training.run_folder import training_data
from tests import tiny


def test_every_step_is_logged_with_every_number() -> None:
    lines = [json.loads(line) for line in (tiny.run() / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11))
    names = {"step", "loss", "loss/query_product", "loss/query_title", "loss/query_image", "weight/title"}
    names |= {"weight/image", "logit_scale", "gradient_norm", "learning_rate", "padding", "epoch", "undecodable_images"}
    names |= {"unreadable_records"}
    assert all(line.keys() == names | tiny.CLOCKED for line in lines)
    assert all(math.isfinite(value) for line in lines for value in line.values())
    for line in lines:
        assert line["loss"] == pytest.approx(
            line["loss/query_product"] + 0.5 * line["loss/query_title"] + 0.5 * line["loss/query_image"], rel=1e-5
        )
        assert line["weight/title"] + line["weight/image"] == pytest.approx(1, abs=1e-5)
        assert line["learning_rate"] <= 3e-3 * (1 + 1e-6)
    assert [line["epoch"] for line in lines] == pytest.approx([16 * step / 2511 for step in range(1, 11)])
    # Two steps of warm-up, then a cosine down to a hundredth.
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == pytest.approx(1.5e-3)
    assert rates[1:3] == pytest.approx([3e-3, 3e-3])
    assert rates[-1] == pytest.approx(3e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi * 7 / 8)) / 2), rel=1e-4)


def test_tensorboard_gets_the_same_numbers() -> None:
    (events,) = (tiny.run() / "tensorboard").glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert all(content.count(name) == 10 for name in (b"loss/query_product", b"gradient_norm", b"data_wait"))


def test_config_is_saved_resolved() -> None:
    saved = json.loads((tiny.run() / "config.json").read_text())
    assert training_data(tiny.run()) == tiny.data()
    assert saved["data"]["image_edge"] == 224  # from the dataset; 0 in the preset
    assert saved["name"] == "tiny"


def test_the_loss_falls(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny.quiet(*tiny.train_words(run, "--steps", 155, "--log-every", 10, "--checkpoint-every", 1000))
    lines = tiny.metrics(run)
    assert [line["step"] for line in lines] == [*range(10, 151, 10), 155]
    first, last = (sum(line["loss"] for line in part) / 5 for part in (lines[:5], lines[-5:]))
    assert last < 0.95 * first
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["155"]


def test_a_complete_run_says_so_and_goes_on_with_more_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(tiny.run(), tmp_path / "run")
    before = (run / "metrics.jsonl").read_bytes()
    tiny.quiet(*tiny.train_words(run))
    assert capsys.readouterr().out == f"{run} is complete at step 10; for more, raise --steps or --minutes\n"
    assert (run / "metrics.jsonl").read_bytes() == before
    tiny.quiet(*tiny.train_words(run, "--steps", 12))
    said = capsys.readouterr()
    assert said.out.startswith(f"{run}: 12 steps in ")
    assert said.err.startswith("resuming at step 10\n")
    assert [line["step"] for line in tiny.metrics(run)] == list(range(1, 13))
    assert (run / "metrics.jsonl").read_bytes().startswith(before)


def test_lines_of_a_killed_process_are_dropped(tmp_path: Path) -> None:
    run = shutil.copytree(tiny.run(), tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')
    tiny.quiet(*tiny.train_words(run, "--steps", 11))
    lines = tiny.metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 12))
    assert lines[-1]["loss"] != 1.0


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = tiny.train_words(run, "--optim.learning-rate", "1e30", "--checkpoint-every", 1)
    code, said = tiny.fails(capsys, *words)
    assert code == 1
    assert said == (
        "maxsearch: at step 2 the loss is nan and the gradient norm nan, so the update was not made; the last "
        "checkpoint is step 1: begin a new run with a lower --optim.learning-rate or --optim.clip-norm, or look for "
        "extreme weights in the data"
    )
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["1"]
    assert [line["step"] for line in tiny.metrics(run)] == [1]


def test_minutes_end_in_time_with_a_decayed_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(0.0, 0.1)  # every look at the clock takes a tenth of a second
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    run = tmp_path / "run"
    words = tiny.train_words(run, "--minutes", 0.5, "--train.steps", 100_000, "--checkpoint-every", 1000)
    tiny.quiet(*words)
    lines = tiny.metrics(run)
    assert 20 < len(lines) < 300
    assert lines[-1]["learning_rate"] < 0.05 * 3e-3
    assert max(line["learning_rate"] for line in lines) > 0.9 * 3e-3
    spent = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 26 <= spent[-1] <= 30


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (("--seed", 3), 2, "holds a run with other settings (seed was 0 and is now 3)"),
        (("--optim.learning-rate", 0.5), 2, "(optim.learning_rate was 0.003 and is now 0.5)"),
        (("--data.batch-size", 24), 2, "(data.batch_size was 16 and is now 24)"),
        (("--data.batch-size", 12), 2, "--data.batch-size 12 must be a multiple of the 8 batch shards of the mesh"),
        (("--mesh.fsdp", 3), 2, "(replica, fsdp, tensor) = (2, 3, 1) needs 6 devices and 8 are present"),
        (("--minutes", 0.01), 0, "is complete at step 10"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], code: int, sentence: str
) -> None:
    run = shutil.copytree(tiny.run(), tmp_path / "run")
    before = (run / "config.json").read_bytes()
    if code == 0:
        tiny.quiet(*tiny.train_words(run, *flags))
        assert sentence in capsys.readouterr().out
    else:
        found, said = tiny.fails(capsys, *tiny.train_words(run, *flags))
        assert (found, sentence in said) == (code, True), said
        assert (run / "config.json").read_bytes() == before


def test_other_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(tiny.run(), tmp_path / "run")
    write_catalogue(tmp_path / "raw", products=100, seed=1)
    products, clicks = tmp_path / "raw/products.train.parquet", tmp_path / "raw/interactions.train.csv"
    tiny.quiet("prepare", "--products", products, "--interactions", clicks, "--out", tmp_path / "data")
    code, said = tiny.fails(capsys, "train", tiny.preset(), "--data", tmp_path / "data", "--run", run)
    assert code == 1
    assert said.startswith("maxsearch: the saved stream position belongs to other data")
    assert said.endswith("resume with what the run began with, or begin a new run")


def test_flags_mended_after_a_refusal_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    tokenizer = tiny.run() / "tokenizer"
    code, said = tiny.fails(
        capsys, *tiny.train_words(run, "--data.tokenizer", tokenizer, "--model.vocab-size", 300, "--steps", 1)
    )
    assert code == 2
    size = int(said.split("set --model.vocab-size ")[1].split()[0])
    flags = ("--data.tokenizer", tokenizer, "--model.vocab-size", size, "--steps", 1)
    tiny.quiet(*tiny.train_words(run, *flags))
    assert [line["step"] for line in tiny.metrics(run)] == [1]


def test_time_that_is_over_before_the_first_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = tiny.fails(capsys, *tiny.train_words(tmp_path / "run", "--minutes", 0.01))
    assert code == 2
    assert said.startswith("maxsearch: --minutes 0.01 are over before the first step, at ")


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tiny.run(), tmp_path / "run")
    last = run / "checkpoints/10"
    (last / "position/metadata").write_text("{")
    code, said = tiny.fails(capsys, *tiny.train_words(run))
    assert code == 1
    assert said.startswith(f"maxsearch: checkpoint 10 of {run} cannot be read (")
    assert said.endswith(f"remove the folder {last} to go back to an earlier one")
    shutil.rmtree(last)
    tiny.quiet(*tiny.train_words(run))
    assert tiny.metrics(run) == tiny.metrics(tiny.run())


def test_a_run_notes_on_what_it_ran() -> None:
    (process,) = json.loads((tiny.run() / "environment.json").read_text())["processes"]
    assert process["from_step"] == 0 and process["devices"]["count"] == 8 and process["created_by"]

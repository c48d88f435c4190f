import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maxsearch.config import Config
from maxsearch.data.keywords import Lexicon
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.training.run_folder import (
    alone,
    differences,
    read_config,
    read_lexicon,
    record_data,
    require_run_folder,
    settle_config,
    settle_lexicon,
    settle_tokenizer,
    training_data,
)
from tests import tiny

CONFIG = Config(name="one")


class Texts:
    """As much of a source of examples as a tokenizer needs."""

    fingerprint, sizes = "texts", (0, 0)

    def __init__(self, *texts: str, lexicon: Lexicon | None = None) -> None:
        self._texts, self.lexicon = texts, lexicon

    def __len__(self) -> int:
        return 1

    def examples(self, draws: Any) -> Any:
        raise NotImplementedError

    pairs = groups = query_texts = product_texts = examples

    def texts(self) -> Any:
        return iter(self._texts)


def begin(run: Path, config: Config = CONFIG) -> None:
    """A run that has reached its first checkpoint."""
    settle_config(run, config)
    (run / "checkpoints" / "20").mkdir(parents=True)


def test_config_of_a_new_run_is_saved_and_read_back(tmp_path: Path) -> None:
    settle_config(tmp_path / "run", CONFIG)
    assert read_config(tmp_path / "run") == CONFIG
    assert json.loads((tmp_path / "run/config.json").read_text())["optim"]["learning_rate"] == 1e-3


def test_what_does_not_change_a_step_may_change(tmp_path: Path) -> None:
    begin(tmp_path)
    later = replace(
        CONFIG,
        name="two",
        train=replace(CONFIG.train, steps=9, log_every=2),
        mesh=replace(CONFIG.mesh, fsdp=2),
        data=replace(CONFIG.data, workers=3, threads=2, prefetch=8, cache_images_mb=5),
    )
    settle_config(tmp_path, later)
    assert read_config(tmp_path) == later


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (replace(CONFIG, seed=3), "seed was 0 and is now 3"),
        (
            replace(CONFIG, optim=replace(CONFIG.optim, learning_rate=0.5)),
            "optim.learning_rate was 0.001 and is now 0.5",
        ),
        (replace(CONFIG, data=replace(CONFIG.data, batch_size=8)), "data.batch_size was 256 and is now 8"),
        (
            replace(CONFIG, seed=1, model=replace(CONFIG.model, dim=8, vocab_size=99, remat="full")),
            "model.dim was 128 and is now 8; model.remat was 'none' and is now 'full'; model.vocab_size was 8192 and "
            "is now 99; and 1 more",
        ),
    ],
)
def test_other_settings_are_refused_and_change_nothing(tmp_path: Path, config: Config, told: str) -> None:
    begin(tmp_path)
    with pytest.raises(UsageError) as error:
        settle_config(tmp_path, config)
    assert str(error.value) == (
        f"--run {tmp_path} holds a run with other settings ({told}): "
        "repeat the command that began it, or name a new folder"
    )
    assert read_config(tmp_path) == CONFIG


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    settle_config(tmp_path, CONFIG)
    (tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp-0").mkdir(parents=True)
    settle_config(tmp_path, replace(CONFIG, seed=3))
    assert read_config(tmp_path).seed == 3


@pytest.mark.parametrize(
    "names", [("notes.txt",), ("config.json", "model.safetensors"), ("manifest.json", "tokenizer")]
)
def test_a_foreign_folder_is_refused_untouched(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with (
        pytest.raises(UsageError, match=f"--run {tmp_path} exists and is no run folder: name a new folder"),
        alone(tmp_path),
    ):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "{}")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UsageError, match="exists and is no run folder"):
        require_run_folder(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no run config at"),
        ("{", "is not valid JSON"),
        ('{"sed": 1}', 'does not fit this version of maxsearch: can not match "sed" to any data class field'),
        ('{"seed": "x"}', 'does not fit this version of maxsearch: wrong value type for field "seed"'),
        ('{"data": {"batch_size": 1}}', "data.batch_size must be at least 2"),
    ],
)
def test_a_config_that_cannot_be_read_is_told(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(MaxsearchError, match=reason):
        read_config(tmp_path)


def test_differences_names_what_changed_came_and_went() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": 4}, "e": 5}
    new = {"a": 1, "b": {"c": [1, 3], "d": 4, "f": 6}}
    assert differences(old, new) == [("b.c", [1, 2], [1, 3]), ("b.f", None, 6), ("e", 5, None)]
    assert differences(old, old) == []
    old, new = ({"stages": [{"name": "a", "steps": 1}, {"name": name}]} for name in "bc")
    assert differences(old, new) == [("stages.1.name", "b", "c")]
    assert differences(old, {"stages": []}) == [("stages", old["stages"], [])]


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = (
        "import sys\nfrom pathlib import Path\nfrom maxsearch.training.run_folder import alone\n"
        "with alone(Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(UsageError, match=f"--run {run} is in use by another process: wait until it ends"),
            alone(run),
        ):
            pass
    finally:
        other.kill()
        other.communicate()
    with alone(run):
        require_run_folder(run)


def test_tokenizer_is_made_once_and_kept(tmp_path: Path) -> None:
    settle_config(tmp_path, CONFIG)
    first = settle_tokenizer(tmp_path, CONFIG, Texts("red shoes", "red dress", "red shoes"))
    assert "Ġred" in first.get_vocab()
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    kept = settle_tokenizer(tmp_path, CONFIG, Texts("blue blue blue"))
    assert kept.get_vocab() == first.get_vocab()


def test_tokenizer_of_a_run_without_a_checkpoint_is_made_anew(tmp_path: Path) -> None:
    settle_tokenizer(tmp_path, CONFIG, Texts("red red red"))
    assert "Ġblue" in settle_tokenizer(tmp_path, CONFIG, Texts("blue blue blue")).get_vocab()


def test_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    size = len(settle_tokenizer(tmp_path / "a", CONFIG, Texts("red red red")))
    small = replace(
        CONFIG,
        data=replace(CONFIG.data, tokenizer=str(tmp_path / "a/tokenizer")),
        model=replace(CONFIG.model, vocab_size=size - 1),
    )
    with pytest.raises(UsageError, match=f"has {size} tokens and the model {size - 1} embeddings: set --model.vocab"):
        settle_tokenizer(tmp_path / "b", small, Texts())
    larger = replace(small, model=replace(CONFIG.model, vocab_size=size))
    assert len(settle_tokenizer(tmp_path / "b", larger, Texts())) == size


def test_keywords_are_settled_once_and_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, keywords=2))
    own = Lexicon(("shoe", "red", "dress"))
    assert settle_lexicon(tmp_path, config, Texts(lexicon=own)) == Lexicon(("shoe", "red"))
    begin(tmp_path, config)
    assert settle_lexicon(tmp_path, config, Texts(lexicon=Lexicon(("blue",)))) == Lexicon(("shoe", "red"))
    assert read_lexicon(tmp_path, config) == Lexicon(("shoe", "red"))
    (tmp_path / "keywords.json").unlink()
    with pytest.raises(MaxsearchError, match=r"no keywords file at .*: begin a new run"):
        settle_lexicon(tmp_path, config, Texts(lexicon=own))


def test_keywords_of_a_source_without_any_are_counted(tmp_path: Path) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, keywords=2))
    source = Texts("a red shoe", "a red dress", "A red  dress", "one dress", "shoe")
    assert settle_lexicon(tmp_path, config, source) == Lexicon(("dress", "red"))
    with pytest.raises(UsageError, match=r"no word that is said twice.*: set model\.keywords 0"):
        settle_lexicon(tmp_path, config, Texts("red", "blue"))


def test_a_model_without_keywords_needs_none(tmp_path: Path) -> None:
    assert settle_lexicon(tmp_path, CONFIG, Texts(lexicon=Lexicon(("red",)))) is None
    assert read_lexicon(tmp_path, CONFIG) is None
    assert not list(tmp_path.iterdir())


def test_a_run_knows_the_folder_it_learned_from(tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny.data(), copy)
    record_data(tmp_path, [f"shop={copy}"])
    assert training_data(tmp_path) == copy
    shutil.rmtree(copy)
    assert training_data(tmp_path) is None
    record_data(tmp_path, [str(tiny.data()), "tfds:coco"])
    assert training_data(tmp_path) is None
    assert training_data(tmp_path / "older") is None

"""A drawn catalogue of 200 products and a model that trains on it in seconds, made once for all tests."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest

from maxsearch.cli import main
from maxsearch.config import Config
from maxsearch.data.synthetic import write_catalogue
from maxsearch.presets import load_preset

PRESET = """
from maxsearch.config import Augment, Config, DataConfig, FusionConfig, ImageConfig, ModelConfig, OptimConfig
from maxsearch.config import TextConfig, TrainConfig


def get_config():
    text = TextConfig(width=16, depth=0, heads=2, max_tokens=8)
    image = ImageConfig(size=(32, 32), patch=16, width=16, depth=1, heads=2, dropout=0.1)
    return Config(
        name="tiny",
        model=ModelConfig(dim=16, vocab_size=512, query=text, title=text, image=image, fusion=FusionConfig(width=16)),
        data=DataConfig(batch_size=16, augment=Augment(drop_title=0.1, drop_image=0.1)),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9),
        train=TrainConfig(steps=10, log_every=1, checkpoint_every=3),
    )
"""

# Of two runs of the same numbers, these may differ.
CLOCKED = {"examples_per_second", "data_wait", "seconds"}


@cache
def folder() -> Path:
    """A folder for this test session; it also holds compiled programs, which most tests share."""
    path = Path(tempfile.mkdtemp(prefix="maxsearch-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    for name, value in compile_cache(path).items():
        jax.config.update(name, value)
    return path


def compile_cache(path: Path) -> dict[str, Any]:
    """The settings of jax's cache of compiled programs."""
    return {
        "jax_compilation_cache_dir": str(path / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.05,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@cache
def preset() -> Path:
    """The preset as a file."""
    path = folder() / "tiny.py"
    path.write_text(PRESET)
    return path


def config() -> Config:
    """What the preset gives."""
    return load_preset(str(preset()))


@cache
def catalogue() -> Path:
    """The raw files."""
    write_catalogue(folder() / "catalogue", products=200)
    return folder() / "catalogue"


@cache
def data() -> Path:
    """The prepared dataset."""
    quiet("prepare", *prepare_words(folder() / "data"))
    return folder() / "data"


@cache
def run() -> Path:
    """A finished run of 10 steps on the simulated devices; not to be changed, copy it first."""
    quiet(*train_words(folder() / "run"))
    return folder() / "run"


@cache
def model() -> Path:
    """The run's exported model; not to be changed."""
    quiet("export", "--run", run(), "--out", folder() / "model")
    return folder() / "model"


@cache
def index() -> Path:
    """An index of the test products; not to be changed."""
    products = catalogue() / "products.test.parquet"
    quiet("index", "build", "--model", model(), "--products", products, "--out", folder() / "index")
    return folder() / "index"


def prepare_words(out: Path) -> list[object]:
    """The flags of `prepare`."""
    products, interactions = (catalogue() / name for name in ("products.train.parquet", "interactions.train.csv"))
    return ["--products", products, "--interactions", interactions, "--map", "weight=clicks", "--out", out]


def train_words(out: Path, *more: object) -> list[object]:
    """The train command."""
    return ["train", preset(), "--data", data(), "--run", out, *more]


def evaluate_words(*more: object) -> list[object]:
    """The evaluate command, without a model."""
    raw = catalogue()
    files = ("--products", "products.test.parquet", "--queries", "queries.test.csv", "--qrels", "qrels.test.tsv")
    return ["evaluate", *(word if word[0] == "-" else raw / word for word in files), *more]


def quiet(*words: object) -> None:
    """Runs a command in this process; it must succeed."""
    main([str(word) for word in words])


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Runs a command that must fail: its exit code, and the last line of what it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert isinstance(stop.value.code, int)
    return stop.value.code, said.strip().splitlines()[-1]


def spawn(words: Sequence[object], *, script: str = "", timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own with one device, and before it the lines of `script`."""
    environment = {name.upper(): str(value) for name, value in compile_cache(folder()).items()}
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "COLUMNS": "200"}
    program = folder() / f"program{abs(hash(script))}.py"
    program.write_text(f"{script}\nfrom maxsearch.cli import main\nif __name__ == '__main__':\n    main()\n")
    return subprocess.run(
        [sys.executable, program, *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in lines]

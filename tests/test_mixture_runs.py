"""Runs with several datasets and with buckets: what they log, that they resume exactly, and what they refuse."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from maxsearch.config import DataConfig
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.mixtures.source import MixtureSource
from maxsearch.data.negatives import MinedSource
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.synthetic import write_catalogue
from maxsearch.errors import UsageError
from maxsearch.training.mixing import open_mixture
from maxsearch.training.opening import open_source
from tests import tiny
from tests.test_distributed import begin, finish
from tests.test_negatives import write

NAMES = ("other", "shop")
MIXED = ("--data.mixture", "shop=1@0,3@6", "other=1")
FLAGS = (*MIXED, "--data.buckets", 2)

pytestmark = pytest.mark.usefixtures("laptop")


@cache
def other() -> Path:
    """A second catalogue."""
    raw = tiny.folder() / "other-raw"
    write_catalogue(raw, products=100, seed=1)
    words = ["--products", raw / "products.train.parquet", "--interactions", raw / "interactions.train.csv"]
    tiny.quiet("prepare", *words, "--map", "weight=clicks", "--out", tiny.folder() / "other")
    return tiny.folder() / "other"


def words(run: Path, *more: object) -> list[object]:
    return ["train", tiny.preset(), "--data", f"shop={tiny.data()}", other(), "--run", run, *more]


@cache
def whole() -> Path:
    """A run of a mixture with buckets; not to be changed, copy it first."""
    run = tiny.folder() / "mixed"
    tiny.quiet(*words(run, *FLAGS))
    return run


def size(data: Path) -> int:
    return int(json.loads((data / "manifest.json").read_text())["interactions"]["count"])


def test_epochs_are_counted_per_dataset_and_padding_is_told() -> None:
    lines = tiny.metrics(whole())
    drawn = [
        [line[f"epoch/{name}"] * size(data) for name, data in zip(NAMES, (other(), tiny.data()), strict=True)]
        for line in lines
    ]
    assert [sum(both) for both in drawn] == pytest.approx([16 * step for step in range(1, 11)])
    assert lines[0]["share/shop"] == pytest.approx(0.5 + 0.25 / 6, abs=0.002)  # on its way from 1/2 to 3/4
    assert lines[-1]["share/shop"] == 0.75
    assert lines[-1]["epoch/shop"] * size(tiny.data()) > 1.5 * lines[-1]["epoch/other"] * size(other())
    assert all(0 < line["padding"] < 0.5 for line in lines)
    assert len({line["padding"] for line in lines}) > 1


def test_a_run_goes_on_bit_by_bit_with_other_workers(tmp_path: Path) -> None:
    run = shutil.copytree(whole(), tmp_path / "run")
    for step in (9, 10):
        shutil.rmtree(run / "checkpoints" / str(step))
    tiny.quiet(*words(run, *FLAGS, "--data.workers", 2, "--data.threads", 2))
    assert tiny.metrics(run) == tiny.metrics(whole())


@pytest.mark.slow
def test_a_run_goes_on_with_other_hosts(tmp_path: Path) -> None:
    run = shutil.copytree(whole(), tmp_path / "run")
    for step in (9, 10):
        shutil.rmtree(run / "checkpoints" / str(step))
    said = finish(launched := begin(2, 2, words(run, *FLAGS)))
    assert launched.returncode == 0, said
    found, expected = tiny.metrics(run), tiny.metrics(whole())
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], rel=1e-4)
    assert [line["padding"] for line in found] == pytest.approx([line["padding"] for line in expected])


def test_another_mixture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(whole(), tmp_path / "run")
    flags = ("--data.mixture", "shop=2", "other=1", "--data.buckets", 2)
    code, said = tiny.fails(capsys, *words(run, *flags))
    assert code == 2
    assert "holds a run with other settings (data.mixture was ['shop=1@0,3@6', 'other=1'] and is now" in said
    code, said = tiny.fails(capsys, *words(run, *MIXED))
    assert (code, "(data.buckets was 2 and is now 0)" in said) == (2, True)
    swapped = ["train", tiny.preset(), "--data", tiny.data(), f"shop={other()}", "--run", run]
    code, said = tiny.fails(capsys, *swapped, *FLAGS)
    assert (code, "--data.mixture is for other, shop and --data gives data, shop: data is missing" in said) == (2, True)
    swapped[3] = f"other={tiny.data()}"
    code, said = tiny.fails(capsys, *swapped, *FLAGS)
    assert (code, "belongs to other data, or another drawing of them" in said) == (1, True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--data.mixture", "shop=1"), "other is missing in --data.mixture, name it there"),
        (("--data.mixture", "shop=1", "other=1", "more=1"), "more is missing in --data, name it there"),
        (("--data.mixture", "shop:1"), "'shop:1' is not of the form NAME=WEIGHT"),
        (("--data.max-padding", 0.001), "--data.max-padding 0.001 is not to be had"),
        (("--data.buckets", -1), "data.buckets must not be negative, not -1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], sentence: str
) -> None:
    code, said = tiny.fails(capsys, *words(tmp_path / "run", *flags))
    assert (code, sentence in said) == (2, True), said


def test_negatives_are_for_the_dataset_that_they_were_mined_from(tmp_path: Path) -> None:
    shop = PreparedDataset.open(tiny.data())
    table = {shop.interactions[0].query: [1, 2]}
    folder = write(tmp_path / "mined", shop, table)
    foreign = write(tmp_path / "foreign", shop, table, data_fingerprint="f" * 64)

    def opened(negatives: Path) -> MixtureSource:
        config = replace(tiny.config(), data=DataConfig(negatives=str(negatives)))
        source, _ = open_mixture([f"shop={tiny.data()}", str(other())], config, open_source)
        assert isinstance(source, MixtureSource)
        return source

    kinds = dict(zip(NAMES, opened(folder)._parts, strict=True))
    assert isinstance(kinds["shop"], MinedSource) and isinstance(kinds["other"], CatalogueSource)
    with pytest.raises(UsageError, match=r"foreign were mined from none of --data .*: mine them again"):
        opened(foreign)


def test_data_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*data: object, flags: tuple[object, ...] = ()) -> tuple[int, str]:
        return tiny.fails(capsys, "train", tiny.preset(), "--data", *data, "--run", tmp_path / "run", *flags)

    code, said = refused(tiny.data(), tiny.data())
    assert (code, "are both called data: give one as NAME=DATA" in said) == (2, True)
    code, said = refused(tiny.data(), f"again={tiny.data()}")
    assert (code, "--data again and data are the same data: give each once" in said) == (2, True)
    code, said = refused(tiny.data(), tmp_path / "none")
    assert (code, said.startswith("maxsearch: no data manifest at ")) == (1, True)
    assert not (tmp_path / "run").exists()

"""Preparation as a Beam pipeline: byte for byte what the embedded runner writes."""

import csv
import dataclasses
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fsspec.core import url_to_fs
from PIL import Image

from maxsearch.data.dataset import PreparedDataset
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.manifest import MANIFEST
from maxsearch.prepare.beam import runner
from maxsearch.prepare.run import PrepareOptions, prepare
from maxsearch.prepare.splits import parse_splits
from maxsearch.prepare.store import Store
from tests import tiny

FASHION = Path(__file__).parents[2] / "shared" / "data" / "fashion"
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed: pip install -e '.[beam]'"
)


def _beam(options: PrepareOptions, *flags: str) -> dict:
    return prepare(options, runner=partial(runner.run, flags=flags))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _untidy(folder: Path) -> PrepareOptions:
    """A catalogue and clicks in several files, with every kind of fault, duplicate and held-out part."""
    draw = random.Random(7)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for colour in ("red", "green", "blue"):
        (pictures / f"{colour}.png").write_bytes(_picture(colour))
    (pictures / "broken.png").write_bytes(b"no picture")
    for part in range(3):
        rows = []
        for i in range(60):
            row = {
                "product_id": f"p{part * 50 + i}",  # the last ten come again in the next file
                "title": draw.choice([f"Red shoe {i % 9}", "Blue Hat", "blue  hat", "Grüne Jacke", ""]),
                "image": draw.choice([["red.png", "broken.png"], "green.png", "blue.png", "broken.png", None]),
                "text": draw.choice(["", "of wool", "nightly"]),
                "season": draw.choice([None, "winter"]),
            }
            rows.append({name: value for name, value in row.items() if value is not None})
        lines = [json.dumps(row) for row in rows] + ["[]", '{"title": "no id"}', "{"]
        (folder / f"products-{part}.jsonl").write_text("\n".join(lines) + "\n")
        with (folder / f"clicks-{part}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["query", "product_id", "clicks", "rank"])
            for i in range(150):
                query = draw.choice(["red shoe", "Red  Shoe", "hat", "blue hats", "jacke", f"shoe {i % 5}"])
                product = f"p{draw.randrange(0, 190)}"
                writer.writerow([query, product, draw.choice([0.1, 1, 3, "x", -1]), draw.randrange(0, 9)])
            for _ in range(3):
                writer.writerow(["all of it", "p1", 1e308, 1])
            writer.writerow(["too few"])
    return PrepareOptions(
        str(folder / "products-*.jsonl"),
        str(folder / "clicks-*.csv"),
        folder / "data",
        image_dir=pictures,
        columns={"weight": "clicks", "position": "rank"},
        max_bad_fraction=0.9,
        shard_records=8,
        keywords=12,
        group_duplicates=("image", "title"),
        splits=parse_splits(("dev=0.2", "test=0.3")),
    )


def _drawn(folder: Path) -> PrepareOptions:
    raw = tiny.catalogue()
    return PrepareOptions(
        raw / "products.train.parquet",
        raw / "interactions.train.csv",
        folder / "data",
        columns={"weight": "clicks"},
        shard_records=64,
    )


def _fashion(folder: Path, rows: int | None = 300) -> PrepareOptions:
    if not FASHION.is_dir():
        pytest.skip("the fashion catalogue is not on this machine")
    table = pq.read_table(FASHION / "products.train.parquet").slice(0, rows)
    pq.write_table(table, folder / "products.parquet")
    known = set(table["product_id"].to_pylist())
    with (FASHION / "clicks.train.csv").open(newline="") as stream, (folder / "clicks.csv").open("w") as copy:
        rows = csv.DictReader(stream)
        csv.writer(copy).writerows([rows.fieldnames, *(row.values() for row in rows if row["product_id"] in known)])
    return PrepareOptions(
        folder / "products.parquet",
        folder / "clicks.csv",
        folder / "data",
        columns={"weight": "clicks"},
        group_duplicates=("image",),
    )


@needs_beam
@pytest.mark.parametrize(
    "source", [_untidy, _drawn, _fashion, pytest.param(partial(_fashion, rows=None), marks=pytest.mark.slow)]
)
def test_both_runners_write_the_same_bytes(tmp_path: Path, source: Callable[[Path], PrepareOptions]) -> None:
    options = source(tmp_path)
    manifest = prepare(options)
    assert _beam(dataclasses.replace(options, out=tmp_path / "beam")) == manifest
    assert _contents(tmp_path / "beam") == _contents(tmp_path / "data")
    assert not list(tmp_path.glob(".*")), "drafts are cleared away"


@needs_beam
@pytest.mark.parametrize(
    "flags", [("direct_num_workers=3", "direct_running_mode=multi_threading"), ("direct_num_workers=2",)]
)
def test_the_number_of_workers_changes_nothing(tmp_path: Path, flags: tuple[str, ...]) -> None:
    options = _untidy(tmp_path)
    prepare(options)
    _beam(dataclasses.replace(options, out=tmp_path / "beam"), *flags)
    assert _contents(tmp_path / "beam") == _contents(tmp_path / "data")


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from maxsearch.data import shards
from maxsearch.prepare.beam import runner
from maxsearch.prepare.run import PrepareOptions, prepare

written = 0
def deadly(*arguments):
    global written
    written += 1
    if written == 150:
        os.kill(os.getpid(), signal.SIGKILL)
    return place(*arguments)

place, shards.ShardWriter.write = shards.ShardWriter.write, deadly
products, clicks = map(Path, sys.argv[1:])
options = PrepareOptions(products, clicks, Path("data"), columns={"weight": "clicks"}, shard_records=64)
prepare(options, runner=runner.run)
"""


@needs_beam
def test_a_killed_run_leaves_the_older_folder_and_a_rerun_completes(tmp_path: Path) -> None:
    options = _drawn(tmp_path)
    prepare(dataclasses.replace(options, keywords=0))
    before = _contents(tmp_path / "data")
    died = subprocess.run(
        [sys.executable, "-c", KILLED, options.products, options.interactions],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        timeout=120,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    (draft,) = tmp_path.glob(".data.*")
    assert list(draft.rglob("products-*.array_record")), "shards were written before it died"
    assert not list(draft.rglob("manifest.json"))
    assert _contents(tmp_path / "data") == before
    manifest = _beam(options)
    assert PreparedDataset.open(tmp_path / "data", verify=True).manifest == manifest
    assert prepare(dataclasses.replace(options, out=tmp_path / "embedded")) == manifest


def _faulty(folder: Path) -> Iterator[tuple[str, PrepareOptions]]:
    """Input that ends a run, each kind once."""
    options = _untidy(folder)
    yield "the products", dataclasses.replace(options, max_bad_fraction=0.1)
    yield "no folder of pictures", dataclasses.replace(options, image_dir=None)
    (folder / "products.csv").write_text("product_id,title\np1,shoe\n")
    whole = dataclasses.replace(options, products=folder / "products.csv", columns={"weight": "clicks"}, splits=None)
    yield "the clicks", dataclasses.replace(whole, max_bad_fraction=0.1)
    (folder / "clicks-1.csv").write_text('query,product_id,clicks,rank\nshoe,p1,1,1\n"shoe,p1,1,1\n')
    yield "an open quote", whole
    (folder / "few.csv").write_text("query,product_id\nshoe,p1\n")
    (folder / "heavy.csv").write_text("query,product_id,weight\nshoe,p1,1e308\nhat,p1,1e308\n")
    yield "infinite weights", dataclasses.replace(whole, interactions=folder / "heavy.csv", columns={})
    few = dataclasses.replace(whole, interactions=folder / "few.csv", columns={})
    yield "an empty part", dataclasses.replace(few, splits=parse_splits(("dev=0.5",)))


@needs_beam
def test_both_runners_end_with_the_same_sentence(tmp_path: Path) -> None:
    for name, options in _faulty(tmp_path):
        aside = tmp_path / "data.rejected.jsonl"
        said = []
        for work in (prepare, _beam):
            with pytest.raises(MaxsearchError) as caught:
                work(options)
            said.append((type(caught.value), str(caught.value), aside.read_bytes() if aside.exists() else b""))
            aside.unlink(missing_ok=True)
            assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*")), name
        assert said[0] == said[1], name


@needs_beam
def test_a_job_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("lost a worker")

    monkeypatch.setattr("maxsearch.prepare.beam.products.pack_product", broken)
    with pytest.raises(
        MaxsearchError, match=r"^the Beam job failed \(lost a worker.*\): see its log, and run it again$"
    ):
        _beam(_drawn(tmp_path))
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*"))


@needs_beam
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["direct_num_worker=2"], r"direct_num_worker is no option of Beam: did you mean 'direct_num_workers'\?"),
        (["direct_num_workers=two"], r"is refused by Beam \(.*invalid int value: 'two'\)"),
        (["runner=NoSuchRunner"], r"runner=NoSuchRunner cannot be used \(Unexpected pipeline runner: NoSuchRunner"),
    ],
)
def test_wrong_options_of_beam(tmp_path: Path, flags: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _beam(_drawn(tmp_path), *flags)


def test_without_beam_the_runner_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    words = tiny.prepare_words(tmp_path / "data")
    code, said = tiny.fails(capsys, "prepare", *words, "--runner", "beam")
    assert (code, said) == (
        2,
        "maxsearch: --runner beam needs Apache Beam, which is not installed: pip install 'maxsearch[beam]'",
    )


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["--beam-options", "direct_num_workers=2"], "--beam-options belong to Apache Beam: choose --runner beam too"),
        (["--runner", "beam", "--workers", "2"], "give --beam-options direct_num_workers=N"),
    ],
)
def test_options_of_the_other_runner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], end: str
) -> None:
    code, said = tiny.fails(capsys, "prepare", *tiny.prepare_words(tmp_path / "data"), *words)
    assert code == 2 and said.endswith(end)


def _stored(store: str) -> dict[str, bytes]:
    system, root = url_to_fs(store)
    return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


@needs_beam
def test_a_dataset_in_an_object_store(tmp_path: Path) -> None:
    options = _untidy(tmp_path)
    prepare(options)
    there = dataclasses.replace(options, out=f"memory://{tmp_path.name}/data")
    _beam(there)
    assert _stored(str(there.out)) == _contents(tmp_path / "data")
    with pytest.raises(UsageError, match=r"holds files, such as dev/.*, and is not replaced: give a new or empty"):
        _beam(there)


def test_a_run_to_an_object_store_that_fails_leaves_no_manifest_and_a_rerun_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(_drawn(tmp_path), out=f"memory://{tmp_path.name}/data")
    keep = Store.keep

    def full(store: Store, file: Path, name: str) -> None:
        if name == MANIFEST:
            raise KeyboardInterrupt
        keep(store, file, name)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "keep", full)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)
    left = _stored(str(options.out))
    assert MANIFEST not in left and any(name.endswith(".array_record") for name in left)
    prepare(dataclasses.replace(options, shard_records=100))
    prepare(dataclasses.replace(options, shard_records=100, out=tmp_path / "data"))
    assert _stored(str(options.out)) == _contents(tmp_path / "data")

"""The runner without an engine: workers, kills, full disks, and what it leaves behind."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maxsearch.data.dataset import PreparedDataset
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import directory_in_place
from maxsearch.prepare.embedded import convert
from maxsearch.prepare.embedded.tables import BLOCK, Tables
from maxsearch.prepare.run import PrepareOptions, prepare
from maxsearch.prepare.splits import Splits

ROOT = Path(__file__).parents[1]
PRODUCTS = 120


def _picture(value: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    """Products of which some are broken, repeat an id, or are alike, and clicks on them."""
    rows = [
        {
            "product_id": f"p{i if i % 17 else 0}",
            "title": f"title {i % 50}",
            "image": [_picture(i % 50), b"broken"] if i % 11 else [b"broken"],
        }
        for i in range(PRODUCTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    clicks = [{"query": f"query {i % 23}", "product_id": f"p{i % 130}", "weight": 0.1 * (i % 7)} for i in range(900)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in clicks))
    return PrepareOptions(
        tmp_path / "p.parquet",
        tmp_path / "c.jsonl",
        tmp_path / "data",
        image_edge=8,
        max_bad_fraction=0.5,
        shard_records=16,
        group_duplicates=("image", "title"),
        splits=Splits({"dev": 0.2}),
    )


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_bytes_however_many_workers(options: PrepareOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(options)
    expected = _contents(options.out)
    letters = [json.loads(line) for line in expected["rejected.jsonl"].splitlines()]
    assert {letter["code"] for letter in letters} == {
        *("undecodable_image", "duplicate_id", "unknown_product", "bad_weight")
    }
    files = [letter["file"] for letter in letters]
    assert files == sorted(files, reverse=True), "products come before interactions"
    for name in set(files):
        rows = [letter["row"] for letter in letters if letter["file"] == name]
        assert rows == sorted(rows)
    monkeypatch.setattr(convert, "FEW", 50)
    prepare(replace(options, workers=None))
    assert _contents(options.out) == expected


def test_the_fault_of_a_worker_is_told_as_one_of_this_process(options: PrepareOptions, tmp_path: Path) -> None:
    pq.write_table(pa.table({"product_id": ["1"], "image": ["1.jpg"]}), tmp_path / "paths.parquet")
    with pytest.raises(UsageError, match=r"holds paths such as '1.jpg': name their folder with --image-dir"):
        prepare(replace(options, products=tmp_path / "paths.parquet", workers=1))


def test_a_worker_that_dies_is_one_sentence(options: PrepareOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_convert", os._exit)  # its argument is the rules, which are no exit code
    monkeypatch.setattr(convert, "_begin", _die)
    with pytest.raises(MaxsearchError, match="a worker process of prepare died, most often for lack of memory: give f"):
        prepare(replace(options, workers=1))
    assert not options.out.exists() and not list(options.out.parent.glob(".data*"))


def _die() -> None:
    os._exit(9)


@pytest.mark.parametrize("failing", ["CREATE TABLE pairs", "INSERT INTO clicks", "SELECT c.query"])
def test_no_room_for_temporary_tables(options: PrepareOptions, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    class Full:
        def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
            self._connection = connection

        def execute(self, query: str, *values: object) -> object:
            if query.startswith(failing):
                raise duckdb.IOException("Could not write file: No space left on device\nmore")
            return self._connection.execute(query, *values)

        def cursor(self) -> "Full":
            return Full(self._connection.cursor())

        def __getattr__(self, name: str) -> object:
            return getattr(self._connection, name)

    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *arguments, **more: Full(connect(*arguments, **more)))
    with pytest.raises(
        MaxsearchError,
        match=r"cannot keep temporary tables in .*scratch \(.*No space left on device\): make room or choose",
    ):
        prepare(options)
    assert not options.out.exists() and not list(options.out.parent.glob(".data*"))


def test_tables_give_back_any_text_and_number_in_order(tmp_path: Path) -> None:
    with Tables(tmp_path) as tables:
        table = tables.create("t", n=pa.int64(), text=pa.string(), number=pa.float64(), texts=pa.list_(pa.string()))
        rows = [(i, f"a\0ü{chr(0x10FFFF)}'\"{i}", 0.1 * i, ["", str(i)][: i % 3]) for i in range(BLOCK + 5)]
        for row in reversed(rows):
            table.add(*row)
        table.flush()
        found = tables.rows("SELECT * FROM t WHERE n >= ? ORDER BY n", 3)
        first = next(found)
        tables.derive("other", "SELECT max(number) AS number FROM t")  # while the other result is being read
        assert [first, *found] == rows[3:]
        assert tables.value("SELECT number FROM other") == rows[-1][2]
        tables.drop("other")
        with pytest.raises(MaxsearchError, match=r"cannot keep temporary tables in .* \(Catalog Error"):
            tables.value("SELECT number FROM other")


KILLED = """
import os, signal, sys
from importlib import import_module
from maxsearch.cli import main

where, name, count = sys.argv[1].rsplit(".", 1)[0], *sys.argv[1].rsplit(".", 1)[1].split("@")
place = import_module(where.partition(":")[0])
for part in filter(None, where.partition(":")[2].split(":")):
    place = getattr(place, part)
action, left = getattr(place, name), int(count)
def deadly(*arguments, **more):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return action(*arguments, **more)
setattr(place, name, deadly)
main(sys.argv[2:])
"""

POINTS = {
    "a product is drafted": "maxsearch.data.shards:ShardWriter.write@60",
    "parts are dealt out": "maxsearch.data.shards:ShardWriter.place@2",
    "clicks are added up": "maxsearch.prepare.embedded.tables:Tables.drop@1",
    "keywords are written": "maxsearch.prepare.embedded.keywords.write_keywords@1",
    "judgments are written": "maxsearch.prepare.embedded.judgments.write_judged@2",
    "the manifest is next": "maxsearch.prepare.run.write_json@3",
}


def _words(options: PrepareOptions, *more: object) -> list[str]:
    words = ["prepare", "--products", options.products, "--interactions", options.interactions, "--out", options.out]
    words += ["--image-edge", options.image_edge, "--max-bad-fraction", options.max_bad_fraction]
    words += ["--shard-records", options.shard_records, "--group-duplicates", *options.group_duplicates]
    return [str(word) for word in (*words, "--splits", "dev=0.2", *more)]


def _spawn(program: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *program], env=environment, stderr=subprocess.PIPE)


def test_a_kill_at_any_point_leaves_what_was_there_and_the_next_run_completes(
    options: PrepareOptions, tmp_path: Path
) -> None:
    clean = replace(options, out=tmp_path / "clean")
    prepare(clean)
    before: dict[str, bytes] = {}
    for number, (where, point) in enumerate(POINTS.items()):
        if number == 3:  # from here on an older dataset stands there
            prepare(replace(options, keywords=5))
            before = _contents(options.out)
        died = _spawn(["-c", KILLED, point, *_words(options, "--workers", "0")])
        _, said = died.communicate(timeout=60)
        assert died.returncode == -signal.SIGKILL, f"{where}: {said.decode()}"
        assert options.out.exists() == bool(before), where
        assert _contents(options.out) == before, where
        assert len(list(tmp_path.glob(".data.draft-*"))) == 1, where
    prepare(options)
    assert _contents(options.out) == _contents(clean.out)
    assert not list(tmp_path.glob(".data*")), "the next run clears away what killed ones left"
    for part in ("train", "dev"):
        PreparedDataset.open(options.out / part, verify=True)


def test_workers_do_not_outlive_a_killed_parent(options: PrepareOptions, tmp_path: Path) -> None:
    fifo = tmp_path / "endless.jsonl"
    rows = "".join(json.dumps({"product_id": f"p{i}", "title": "x"}) + "\n" for i in range(4000))
    fifo.write_text(rows * 40)  # long enough to be met at work
    parent = _spawn(["-m", "maxsearch", *_words(replace(options, products=fifo), "--workers", "2")])
    workers: list[int] = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        workers = [one for one in _children(parent.pid) if b"spawn_main" in _command(one)]
    parent.kill()
    parent.communicate()
    assert len(workers) == 2
    while any(b"spawn_main" in _command(one) for one in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(b"spawn_main" in _command(one) for one in workers)
    assert not options.out.exists()


def _children(process: int) -> Iterator[int]:
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            yield from map(int, thread.read_text().split())
        except OSError:
            continue


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_draft_at_work_is_left_alone_and_an_older_folder_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "a.b[1]"
    with directory_in_place(out) as first:
        (first / "file").write_text("first")
        with directory_in_place(out) as second:
            (second / "file").write_text("second")
        assert first.exists()
        assert (out / "file").read_text() == "second"
    assert (out / "file").read_text() == "first"
    # A process was killed between setting the older folder aside and placing its own.
    out.rename(tmp_path / ".a.b[1].old-abcdefgh")
    (tmp_path / ".a.b[1].draft-abcdefgh").mkdir()
    mine = tmp_path / ".a.b[1].draft-of-mine"
    mine.mkdir()
    with pytest.raises(ValueError, match="early"), directory_in_place(out):
        assert (out / "file").read_text() == "first"
        raise ValueError("early")
    assert {path.name for path in tmp_path.iterdir()} == {out.name, mine.name}, "only drafts of ours are cleared away"

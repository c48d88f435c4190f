import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.errors import MaxsearchError
from maxsearch.serving.store.log import MAGIC, WriteLog, pack, replace_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    replace_log(tmp_path / "writes.log", ())
    return tmp_path / "writes.log"


def opened(path: Path) -> WriteLog:
    log = WriteLog(path)
    log.read()
    return log


def test_records_are_read_by_others_as_they_come(path: Path) -> None:
    writer, reader = opened(path), opened(path)
    assert reader.read() == (False, [])
    writer.append(b"one")
    writer.append(b"")
    assert reader.read() == (False, [b"one", b""])
    assert reader.read() == (False, [])
    assert WriteLog(path).read() == (True, [b"one", b""])


def test_a_replaced_log_is_read_from_its_start(path: Path) -> None:
    reader = opened(path)
    opened(path).append(b"one")
    replace_log(path, [b"two"])
    assert reader.read() == (True, [b"two"])


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_a_log_cut_short_anywhere_gives_its_whole_records_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "writes.log"
    replace_log(path, records)
    cut = data.draw(st.integers(len(MAGIC), path.stat().st_size))
    os.truncate(path, cut)
    if data.draw(st.booleans()):  # a power cut may leave the length without the bytes
        with path.open("ab") as stream:
            stream.write(bytes(data.draw(st.integers(0, 60))))
    ends = [len(MAGIC) + sum(len(pack(record)) for record in records[: n + 1]) for n in range(len(records))]
    whole = [record for record, end in zip(records, ends, strict=True) if end <= cut]
    log = WriteLog(path)
    found = log.read()[1]
    # What was cut off may have been zeros.
    assert found[: len(whole)] == whole and len(found) <= len(whole) + 1
    log.append(b"next")
    assert WriteLog(path).read() == (True, [*found, b"next"])


@pytest.mark.parametrize("place", range(len(MAGIC), len(MAGIC) + 12 + 5))
def test_damage_before_the_end_is_told(path: Path, place: int) -> None:
    replace_log(path, [b"first", b"second"])
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(MaxsearchError, match=rf"writes.log is damaged at byte {len(MAGIC)}, so writes after it"):
        WriteLog(path).read()


def test_another_file_or_none_is_told(path: Path) -> None:
    path.write_bytes(b"something else entirely")
    with pytest.raises(MaxsearchError, match="is damaged at byte 0"):
        WriteLog(path).read()
    path.unlink()
    with pytest.raises(MaxsearchError, match="has lost its log of writes"):
        WriteLog(path).read()


def test_a_record_is_flushed_before_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    real = os.fsync

    def fsync(stream: int) -> None:
        flushed.append(os.fstat(stream).st_size)
        real(stream)

    log = opened(path)
    monkeypatch.setattr(os, "fsync", fsync)
    log.append(b"one")
    assert flushed == [path.stat().st_size]


def test_a_record_that_cannot_be_written_leaves_no_trace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, reader = opened(path), opened(path)
    log.append(b"one")

    def full(stream: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "ftruncate", lambda *_: reader.read())  # a reader sees it before it is taken back
        with pytest.raises(OSError, match="No space"):
            log.append(b"lost")
    os.truncate(path, log._end)
    log.append(b"two")
    assert WriteLog(path).read() == (True, [b"one", b"two"])
    assert reader.read()[1][-1] == b"two"

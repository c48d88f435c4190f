"""Where the time of a run went, over several processes."""

import time

import pytest

from maxsearch.training.goodput import Clock, goodput, read_lines, told, write_lines


def line(began: float, wall: float, first: int, last: int, **seconds: float) -> dict:
    return {"began": began, "wall": wall, "first": first, "last": last, "seconds": seconds}


def test_shares_are_those_of_all_processes_and_repeated_steps_do_not_count(tmp_path):
    lines = [
        line(100, 50, 0, 8, start=10, steps=40),  # 5 seconds a step
        line(160, 40, 6, 16, compile=10, steps=30),  # after a break of 10 s; steps 7 and 8 once more
    ]
    write_lines(tmp_path, lines)
    shares = goodput(read_lines(tmp_path))
    assert shares == pytest.approx({"start": 0.1, "steps": 0.6, "repeated": 0.1, "down": 0.1, "compile": 0.1})
    assert told(shares).startswith("goodput 60.0 % (")
    assert goodput([]) == {}


def test_a_block_within_a_block_counts_for_itself():
    clock = Clock()
    with clock.spent_on("outer"):
        time.sleep(0.02)
        with clock.spent_on("inner"):
            time.sleep(0.05)
    made = clock.line(0, 3, data_wait=0.001)
    assert made["seconds"]["inner"] == pytest.approx(0.05, abs=0.03)
    assert made["seconds"]["outer"] < made["seconds"]["inner"]
    assert sum(made["seconds"].values()) == pytest.approx(made["wall"], abs=0.005)

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def killed(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kills by what was under way; every one of them was followed by a look at the store."""
    words = [sys.executable, "-m", "tests.store_crash", str(folder), str(kills), str(seed)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["kills"]


def test_a_killed_writer_leaves_a_whole_generation_with_every_acknowledged_write(tmp_path: Path) -> None:
    assert sum(killed(tmp_path, 12, seed=0).values()) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_killed_writers_leave_whole_generations_with_every_acknowledged_write(tmp_path: Path, seed: int) -> None:
    kills = killed(tmp_path, 100, seed)
    assert min(kills[action] for action in ("build", "publish", "upsert", "compact")) >= 5
    assert sum(kills[action] for action in ("build", "publish", "upsert", "compact")) >= 50

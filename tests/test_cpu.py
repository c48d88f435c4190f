"""What is settled for CPU: compiler options that this jaxlib knows, and an allocator that keeps what is freed."""

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from maxsearch import cpu

FAULTS = """
import resource, sys
import numpy as np
from maxsearch.allocator import keep_freed_memory

kept = sys.argv[1] == "kept" and keep_freed_memory()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    cpu.known_options.cache_clear()
    changed = dict(cpu.STEP_OPTIONS)
    monkeypatch.setattr(cpu, "STEP_OPTIONS", changed)
    yield changed
    cpu.known_options.cache_clear()


@pytest.mark.usefixtures("one_device")
def test_an_option_that_this_jaxlib_lacks_is_left_out(options: dict[str, Any]):
    known = dict(options)
    options["xla_cpu_of_another_version"] = True
    assert known
    assert cpu.step_options() == known


def test_steps_for_other_chips_get_no_options_of_the_cpu(monkeypatch: pytest.MonkeyPatch):
    devices = np.array([SimpleNamespace(platform="tpu")])
    monkeypatch.setattr(jax.sharding, "get_mesh", lambda: SimpleNamespace(empty=False, devices=devices))
    assert cpu.step_options() is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_taken_again_without_page_faults():
    def faults(how: str) -> tuple[bool, int]:
        words = [sys.executable, "-c", FAULTS, how]
        kept, count = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        return kept == "True", int(count)

    kept, few = faults("kept")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many = faults("as usual")
    assert few < 100 < many


@pytest.mark.parametrize(("platforms", "kept"), [("cpu", True), ("cuda,cpu", False), ("tpu", False)])
def test_only_a_process_on_the_cpu_keeps_its_memory(monkeypatch: pytest.MonkeyPatch, platforms: str, kept: bool):
    calls = []
    monkeypatch.setattr(cpu, "keep_freed_memory", lambda: calls.append(1) or True)
    monkeypatch.setattr(cpu, "jax", SimpleNamespace(config=SimpleNamespace(jax_platforms=platforms)))
    assert cpu.settle_memory() is kept
    assert len(calls) == kept

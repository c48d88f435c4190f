"""The plans of the large presets, as they were when last compiled, beside what the presets are now."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from maxsearch.config import MeshConfig
from maxsearch.mesh import make_mesh
from maxsearch.planning.jobs import Train
from maxsearch.planning.plan import make_plan
from maxsearch.planning.topology import devices_of, parse
from maxsearch.presets import load_preset
from maxsearch.training.state import init_params

GOLDEN = sorted((Path(__file__).parent / "golden").glob("plan-*.json"))
TELLS = {"parameters", "batch_size", "microbatches"}


def read(path: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(path.read_text())
    return plan


def test_every_large_preset_has_a_plan_that_fits():
    plans = {read(path)["preset"]: read(path) for path in GOLDEN}
    assert plans.keys() == {"base", "large", "giant"}
    assert all(plan["fits"] and plan["memory"]["peak"] < plan["hbm_bytes"] for plan in plans.values())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_plan_is_of_the_preset_as_it_is(path):
    """After a change: maxsearch plan PRESET --topology TOPOLOGY --out tests/golden/plan-PRESET.json"""
    golden = read(path)
    config = load_preset(golden["preset"])
    with jax.set_mesh(make_mesh(MeshConfig())):
        params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    now = {
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "batch_size": config.data.batch_size,
        "microbatches": config.train.microbatches,
    }
    assert now == {name: golden[name] for name in TELLS}
    assert golden["mesh"]["fsdp"] == config.mesh.fsdp


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu, which has the compiler")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_compiler_still_says_so(path):
    golden = read(path)
    topology = parse(golden["topology"], golden["slices"])
    now = make_plan(load_preset(golden["preset"]), topology, devices_of(topology), Train()).to_json()
    for name in ("fits", "mesh", "chips", "model_flops"):
        assert now[name] == golden[name], name
    assert now["memory"]["peak"] == pytest.approx(golden["memory"]["peak"], rel=0.02)
    sent = ({each["kind"]: each["wire_bytes"] for each in plan["collectives"]} for plan in (now, golden))
    assert next(sent) == pytest.approx(next(sent), rel=0.02)

"""ONNX: converted for real where an environment for the converter is named, and what is said where there is none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsearch.exporting.layout_free import without_layout
from maxsearch.exporting.onnx import select
from tests import tiny

PYTHON = os.environ.get("MAXSEARCH_ONNX_PYTHON", "")


def run(python: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(Path.cwd())}
    command = [python, "-m", "maxsearch.exporting.onnx", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.skipif(not PYTHON, reason="MAXSEARCH_ONNX_PYTHON names no interpreter with jax2onnx (docs/export.md)")
def test_onnx_runtime_gives_the_models_vectors(tmp_path: Path) -> None:
    ran = run(PYTHON, tiny.model(), "--out", tmp_path / "onnx")
    assert ran.returncode == 0, ran.stderr
    assert "ONNX Runtime gives the model's vectors to" in ran.stdout
    manifest = json.loads((tmp_path / "onnx" / "manifest.json").read_text())
    assert manifest["fingerprint"] == json.loads((tiny.model() / "manifest.json").read_text())["fingerprint"]
    assert manifest["difference"].keys() == {"q", "p", "t", "v", "weights"}
    assert max(manifest["difference"].values()) < 1e-5
    damaged = shutil.copytree(tiny.model(), tmp_path / "model")
    (damaged / "model.safetensors").unlink()
    ran = run(PYTHON, damaged, "--out", tmp_path / "onnx")
    assert (ran.returncode, "model.safetensors is missing" in ran.stderr) == (1, True)
    assert json.loads((tmp_path / "onnx" / "manifest.json").read_text()) == manifest


BARE = "import sys; sys.modules['jax2onnx'] = None; from maxsearch.exporting.onnx import main; main()"


def test_without_the_converter_it_says_where_to_get_it(tmp_path: Path) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(Path.cwd())}
    words = [sys.executable, "-c", f"{BARE}", str(tmp_path / "model"), "--out", str(tmp_path / "onnx")]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 2
    said = ran.stderr.strip().splitlines()[-1]
    assert said.endswith("is not installed here: make an environment for the converter as docs/export.md says")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("kind", [bool, np.float32])
def test_a_choice_between_booleans_is_made_by_logic(kind: type) -> None:
    which = np.array([True, False, True, False])
    yes, no = np.array([1, 1, 0, 0], kind), np.array([0, 1, 1, 0], kind)
    traced = jax.make_jaxpr(lambda w, a, b: jnp.where(w, a, b))(which, yes, no)
    replay = without_layout(traced, {"select_n": select})
    np.testing.assert_array_equal(replay(which, yes, no)[0], np.where(which, yes, no), strict=True)
    names = {equation.primitive.name for equation in jax.make_jaxpr(lambda *x: replay(*x))(which, yes, no).jaxpr.eqns}
    assert ("select_n" in names) == (kind is np.float32)

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from maxsearch.config import MeshConfig
from maxsearch.errors import MaxsearchError
from maxsearch.mesh import make_mesh
from maxsearch.training.checkpoint import Checkpoints, has_checkpoint, placed
from maxsearch.training.optim import make_optimizer
from maxsearch.training.state import TrainState, abstract_state
from tests import tiny
from tests.small import CONFIG, bits

POSITION: dict[str, Any] = {"stream": {"next_batch": 3}, "seconds": 1.5, "horizon": None, "stage": 1, "stage_start": 7}


def mesh_of(*sizes: int) -> Mesh:
    return make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])


def abstract_on(mesh: Mesh) -> TrainState:
    with jax.set_mesh(mesh):
        return abstract_state(CONFIG, make_optimizer(CONFIG.optim))


def drawn_state(mesh: Mesh, seed: int = 0) -> TrainState:
    """A state whose every array is different, without compiling anything."""
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(seed + 1), leaf.sharding)
        return jax.device_put(rng.normal(size=leaf.shape, scale=100).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, placed(abstract_on(mesh), mesh))


@cache
def saved() -> Path:
    """A run folder with the steps 10 and 20, saved from eight replicas; not to be changed."""
    run = tiny.folder() / "checkpointed"
    mesh = mesh_of(8, 1, 1)
    checkpoints = Checkpoints(run, keep=3, create=True)
    with jax.set_mesh(mesh):
        for step in (10, 20):
            checkpoints.save(step, drawn_state(mesh, step), POSITION | {"horizon": float(step)})
    checkpoints.close()
    return run


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 1, 1)])
def test_a_state_comes_back_on_any_mesh(sizes: tuple[int, int, int]) -> None:
    mesh = mesh_of(*sizes)
    checkpoints = Checkpoints(saved())
    with jax.set_mesh(mesh):
        state, position = checkpoints.restore(20, abstract_on(mesh), mesh)
        ema = checkpoints.restore_ema(20, abstract_on(mesh).ema, mesh)
    checkpoints.close()
    assert bits(state) == bits(drawn_state(mesh_of(8, 1, 1), 20))
    assert bits(ema) == bits(state.ema)
    assert position == POSITION | {"horizon": 20.0}
    checkpoints = Checkpoints(saved())
    assert checkpoints.position(20) == position
    averages = checkpoints.averages(20, mesh)
    checkpoints.close()
    assert bits(averages) == bits(ema)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(averages))
    expected = placed(abstract_on(mesh), mesh)
    assert [x.sharding for x in jax.tree.leaves(state)] == [x.sharding for x in jax.tree.leaves(expected)]
    kernel = state.params["query_project"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[0] == kernel.shape[0] // sizes[1]


def test_the_average_is_read_without_the_rest(tmp_path: Path) -> None:
    run = shutil.copytree(saved(), tmp_path / "run")
    shutil.rmtree(run / "checkpoints/20/state")
    mesh = mesh_of(1, 1, 1)
    checkpoints = Checkpoints(run)
    with jax.set_mesh(mesh):
        ema = checkpoints.restore_ema(20, abstract_on(mesh).ema, mesh)
    checkpoints.close()
    assert bits(ema) == bits(drawn_state(mesh_of(8, 1, 1), 20).ema)


def test_steps_are_found_or_told() -> None:
    checkpoints = Checkpoints(saved())
    assert (checkpoints.latest, checkpoints.require(None), checkpoints.require(10)) == (20, 20, 10)
    with pytest.raises(MaxsearchError, match=f"{saved()} has no checkpoint of step 15: choose from 10, 20"):
        checkpoints.require(15)
    checkpoints.close()


def test_no_folder_and_no_step_are_told(tmp_path: Path) -> None:
    with pytest.raises(MaxsearchError, match=f"{tmp_path} holds no checkpoints: name a run folder that"):
        Checkpoints(tmp_path)
    checkpoints = Checkpoints(tmp_path, create=True)
    assert checkpoints.latest is None
    with pytest.raises(MaxsearchError, match=f"{tmp_path} has no complete checkpoint yet: train it first"):
        checkpoints.require(None)
    checkpoints.close()


def test_only_the_latest_are_kept_and_reading_deletes_none(tmp_path: Path) -> None:
    mesh = mesh_of(1, 1, 1)
    state = drawn_state(mesh)
    checkpoints = Checkpoints(tmp_path, keep=2, create=True)
    for step in (1, 2, 3):
        checkpoints.save(step, state, POSITION)
        checkpoints.wait()
    checkpoints.save(3, state, POSITION)  # a step that stands there is left alone
    checkpoints.close()
    Checkpoints(tmp_path).close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_an_unfinished_save_is_no_checkpoint(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    draft = shutil.copytree(saved() / "checkpoints/20", tmp_path / "checkpoints/20.orbax-checkpoint-tmp")
    assert not has_checkpoint(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest is None
    checkpoints.close()
    assert draft.exists()  # it may be the draft of a process that is still training
    mesh = mesh_of(1, 1, 1)
    checkpoints = Checkpoints(tmp_path, create=True)
    checkpoints.save(30, drawn_state(mesh), POSITION)
    checkpoints.close()
    assert not draft.exists()
    shutil.rmtree(tmp_path / "checkpoints/30")
    shutil.copytree(saved() / "checkpoints/20", tmp_path / "checkpoints/20")
    assert has_checkpoint(tmp_path)


def data_files(item: Path) -> list[Path]:
    """All of them: which ones a restore reads is decided by the timing of the save's parallel writes."""
    return [path for path in item.rglob("d/*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "read"), [("position/metadata", "position"), ("ema/_METADATA", "averages")], ids=["position", "averages"]
)
def test_what_is_read_alone_is_named_when_damaged(tmp_path: Path, name: str, read: str) -> None:
    run = shutil.copytree(saved(), tmp_path / "run")
    (run / "checkpoints/20" / name).write_text("{")
    checkpoints = Checkpoints(run)
    with pytest.raises(MaxsearchError, match=f"checkpoint 20 of {run} cannot be read .*: remove the folder"):
        getattr(checkpoints, read)(20, *([mesh_of(1, 1, 1)] if read == "averages" else []))
    checkpoints.close()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda step: [os.truncate(path, 50) for path in data_files(step / "state")], id="cut short"),
        pytest.param(lambda step: [path.unlink() for path in data_files(step / "ema")], id="files missing"),
        pytest.param(lambda step: shutil.rmtree(step / "ema"), id="average missing"),
        pytest.param(lambda step: shutil.rmtree(step / "position"), id="position missing"),
        pytest.param(lambda step: (step / "state/manifest.ocdbt").unlink(), id="manifest missing"),
        pytest.param(lambda step: (step / "position/metadata").write_text("{"), id="position no JSON"),
        pytest.param(lambda step: (step / "position/metadata").write_text("[1]"), id="position a list"),
        pytest.param(lambda step: [shutil.rmtree(path) for path in step.iterdir() if path.is_dir()], id="empty"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    run = shutil.copytree(saved(), tmp_path / "run")
    damage(run / "checkpoints/20")
    mesh = mesh_of(1, 1, 1)
    checkpoints = Checkpoints(run)
    with jax.set_mesh(mesh), pytest.raises(MaxsearchError) as error:
        checkpoints.restore(20, abstract_on(mesh), mesh)
    checkpoints.close()
    message = str(error.value)
    assert message.startswith(f"checkpoint 20 of {run} cannot be read (")
    assert message.endswith(f"): remove the folder {run}/checkpoints/20 to go back to an earlier one")
    assert "\n" not in message
    assert len(message) < 800


def test_a_checkpoint_of_another_model_is_named() -> None:
    mesh = mesh_of(1, 1, 1)
    abstract = abstract_on(mesh)
    other = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(tuple(n + 1 for n in x.shape), x.dtype, sharding=x.sharding), abstract.ema
    )
    checkpoints = Checkpoints(saved())
    with pytest.raises(MaxsearchError, match=f"checkpoint 20 of {saved()} cannot be read"):
        checkpoints.restore_ema(20, other, mesh)
    checkpoints.close()

"""Checkpoints of a run: state, averaged parameters, stream position and schedule, saved by Orbax in the background."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maxsearch.errors import MaxsearchError
from maxsearch.training.state import TrainState

FOLDER = "checkpoints"
OCDBT = "manifest.ocdbt"
POSITION = {"stream", "seconds", "horizon", "stage", "stage_start"}


def has_checkpoint(run: Path) -> bool:
    """Whether a run folder holds a complete step; unfinished ones have longer names."""
    return any(path.name.isdecimal() for path in (run / FOLDER).glob("*"))


def placed(abstract: Any, mesh: Mesh) -> Any:
    """Shapes with concrete shardings, from shapes that know only their layout."""

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        layout = leaf.sharding.spec if leaf.sharding else PartitionSpec()  # a scalar may come without one
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, layout))

    return jax.tree.map(place, abstract)


def arrays_of(state: TrainState) -> dict[str, Any]:
    """The item `state` of a checkpoint: all but the average, and no bank where there is none."""
    arrays = {"step": state.step, "params": state.params, "moments": state.moments, "key": state.key}
    if state.bank is not None:
        arrays["bank"] = {name: value for name, value in vars(state.bank).items() if value is not None}
    return arrays


class Checkpoints:
    """The checkpoints of one run folder.

    A step's folder appears under its name only when it is complete, so that a process killed in mid-save leaves the
    step before it as the latest. The averaged parameters are an item of their own: evaluation and export read no other.
    """

    def __init__(self, run: Path, keep: int = 1, *, create: bool = False) -> None:
        """Opens RUN/checkpoints.

        Args:
          run: the run's folder.
          keep: how many of the latest steps stay.
          create: whether the folder is made when absent.

        Raises:
          MaxsearchError: there is no such folder.
        """
        folder = (run / FOLDER).absolute()
        if not create and not folder.is_dir():
            raise MaxsearchError(f"{run} holds no checkpoints: name a run folder that `maxsearch train` wrote")
        self._run = run
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=create, enable_async_checkpointing=True, cleanup_tmp_directories=create
            ),
        )

    @property
    def latest(self) -> int | None:
        """The latest complete step, None before the first."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Begins to save; the state may be donated to the next step at once.

        Args:
          step: updates done.
          state: all arrays.
          position: JSON values of the stream and the schedule, by the names in `POSITION`. The stream must not have
            been advanced past `step`.
        """
        if step == self.latest:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays_of(state)),
                ema=ocp.args.StandardSave(state.ema),
                position=ocp.args.JsonSave(position),
            ),
        )

    def restore(self, step: int, abstract: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """Reads a step onto the mesh, whatever mesh it was saved from.

        Args:
          step: a complete step.
          abstract: the state's shapes and layout.
          mesh: where its arrays go.

        Raises:
          MaxsearchError: the checkpoint does not fit the model, or cannot be read.
        """
        target = placed(abstract, mesh)
        items = self._read(
            step,
            state=ocp.args.StandardRestore(arrays_of(target)),
            ema=ocp.args.StandardRestore(target.ema),
            position=ocp.args.JsonRestore(),
        )
        arrays = items["state"]
        if abstract.bank is not None:
            arrays["bank"] = replace(abstract.bank, **arrays["bank"])
        return TrainState(ema=items["ema"], **arrays), items["position"]

    def position(self, step: int) -> dict[str, Any]:
        """Reads the position of a step alone, which says what its state is made of; errors as for `restore`."""
        position: dict[str, Any] = self._read(step, position=ocp.args.JsonRestore())["position"]
        return position

    def restore_ema(self, step: int, abstract: Any, mesh: Mesh) -> Any:
        """Reads the averaged parameters of a step alone; arguments and errors as for `restore`."""
        return self._read(step, ema=ocp.args.StandardRestore(placed(abstract, mesh)))["ema"]

    def averages(self, step: int, mesh: Mesh) -> Any:
        """The averaged parameters of a step, of whatever model, whole on every device; errors as for `restore`."""
        try:
            folder = epath.Path((self._run / FOLDER / str(step) / "ema").absolute())
            saved = ocp.StandardCheckpointHandler().metadata(folder).tree
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)
        except Exception as error:  # damaged metadata fail in many ways
            raise self._unreadable(step, error) from error
        return self.restore_ema(step, abstract, mesh)

    def require(self, step: int | None) -> int:
        """The step asked for, or the latest.

        Raises:
          MaxsearchError: it does not exist.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise MaxsearchError(f"{self._run} has no complete checkpoint yet: train it first")
        if step is None:
            return steps[-1]
        if step not in steps:
            raise MaxsearchError(
                f"{self._run} has no checkpoint of step {step}: choose from {', '.join(map(str, steps))}"
            )
        return step

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the threads."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step: int, **items: Any) -> dict[str, Any]:
        try:
            for name in items.keys() - {"position"}:
                # Orbax would tell of each array that it misses, on stderr.
                if not (self._run / FOLDER / str(step) / name / OCDBT).is_file():
                    raise FileNotFoundError(f"{name}/{OCDBT} is missing")
            found = dict(self._manager.restore(step, args=ocp.args.Composite(**items)).items())
            position = found.get("position", dict.fromkeys(POSITION))
            if not isinstance(position, dict) or not position.keys() >= POSITION:
                raise ValueError(f"position lacks one of {', '.join(sorted(POSITION))}")
            return found
        except Exception as error:  # TensorStore raises plain Exception for a file that is cut short
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> MaxsearchError:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return MaxsearchError(
            f"checkpoint {step} of {self._run} cannot be read ({lines[0][:200]}): "
            f"remove the folder {self._run / FOLDER / str(step)} to go back to an earlier one"
        )

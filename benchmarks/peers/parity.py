"""Whether both sides compute the same: vectors, loss, every gradient, and the losses of a few training steps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from benchmarks.peers.jax_step import JaxStep
from benchmarks.peers.settings import Options
from benchmarks.peers.torch_step import TorchStep, tensors
from benchmarks.peers.twin import TorchSearchModel
from benchmarks.peers.weights import check_same_parameters, group_settings, twin_batch, twin_leaves
from maxsearch.config import Config
from maxsearch.errors import MaxsearchError
from maxsearch.mesh import put_batch
from maxsearch.models.search import Outputs
from maxsearch.training.optim import path_name
from maxsearch.training.state import model_graph
from maxsearch.training.step import loss_and_metrics

VECTORS = ("query", "title", "image", "product")
TOLERANCE = {"vectors": 1e-5, "loss": 1e-5, "gradient": 1e-3, "trained_loss": 1e-3}
MOVED = 0.02  # standard deviation: what starts at zero would hide a branch
STEPS = 3


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree of parameters by path."""
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def moved(params: Any) -> Any:
    """Every parameter a little off its start."""
    rng = np.random.default_rng(0)

    def move(x: jax.Array) -> jax.Array:
        return jax.device_put(np.asarray(x) + MOVED * rng.standard_normal(x.shape, np.float32), x.sharding)

    return jax.tree.map(move, params)


def ours(
    config: Config, params: Any, batch: Mapping[str, np.ndarray], mesh: Any
) -> tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Loss, vectors by name and gradients by path."""
    graph = model_graph(config)

    def objective(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, Outputs]:
        return loss_and_metrics(graph, config, params, batch, None)[0], nnx.merge(graph, params)(batch)

    (loss, outputs), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params, put_batch(batch, mesh))
    found = {name: getattr(outputs.products, name) for name in VECTORS[1:]} | {"query": outputs.query}
    return float(loss), {name: np.asarray(x) for name, x in found.items()}, by_path(gradients)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Length of the difference over that of `b`; 0 when both are zero."""
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


def compare(
    trainer: JaxStep,
    config: Config,
    batch: Mapping[str, np.ndarray],
    options: Options | None = None,
    steps: int = STEPS,
) -> dict[str, Any]:
    """How far both sides are apart on a batch, in float32, from the same moved parameters.

    Args:
      trainer: our side, fresh; it is used up.
      config: as `comparable` gives it.
      batch: of any size.
      options: of the PyTorch side.
      steps: of training.

    Returns:
      `parameters`, equal on both sides; `vectors`, the largest difference of a coordinate of a unit vector; `loss`,
      relative; `gradient`, the largest of the parameters' relative differences in length, and `gradient_of`, whose it
      is; `trained_loss`, the largest relative difference of the losses of the training steps.

    Raises:
      MaxsearchError: the parameters differ in number or shape, or a difference is above TOLERANCE.
    """
    mirrored = twin_batch(batch, config)
    with jax.set_mesh(trainer.mesh):
        params = moved(trainer.state.params)
        loss, vectors, gradients = ours(config, params, batch, trainer.mesh)
        leaves = twin_leaves(by_path(params), config)
        trainer.state = replace(trainer.state, params=params, ema=jax.tree.map(jnp.copy, params))
    parameters = check_same_parameters(leaves, parameter_shapes(config, options))
    values = {name: leaf.value for name, leaf in leaves.items()}
    peer = TorchStep(config, values, group_settings(leaves, config.optim), options=options)
    with torch.no_grad():
        theirs = peer.model(tensors(mirrored))
    their_loss, their_gradients = peer.gradients(mirrored)
    expected = {name: leaf.value for name, leaf in twin_leaves(gradients, config).items()}
    by_leaf = {name: relative(their_gradients[name], expected[name]) for name in expected}
    worst = max(by_leaf, key=by_leaf.__getitem__)
    trained = [(trainer(batch), peer(mirrored)) for _ in range(steps)]
    figures = {
        "vectors": max(float(np.abs(vectors[name] - getattr(theirs, name).numpy()).max()) for name in VECTORS),
        "loss": abs(their_loss - loss) / abs(loss),
        "gradient": by_leaf[worst],
        "trained_loss": max((abs(b - a) / abs(a) for a, b in trained), default=0.0),
    }
    check_close(figures, worst)
    rounded = {name: float(f"{figure:.2g}") for name, figure in figures.items()}
    return {"parameters": parameters, **rounded, "gradient_of": worst}


def parameter_shapes(config: Config, options: Options | None) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of the twin, without its values."""
    with torch.device("meta"):
        twin = TorchSearchModel(config, (options or Options()).block)
    return {name: tuple(parameter.shape) for name, parameter in twin.named_parameters()}


def check_close(figures: Mapping[str, float], worst: str) -> None:
    """Checks every figure against TOLERANCE; `worst` names the parameter of the gradient's.

    Raises:
      MaxsearchError: one is above.
    """
    for name, figure in figures.items():
        if not figure <= TOLERANCE[name]:
            where = f" (most of all {worst})" if name == "gradient" else ""
            raise MaxsearchError(
                f"{name} of our model and of the PyTorch twin differ by {figure:.2g}{where}, above "
                f"{TOLERANCE[name]:.0e}: mend benchmarks/peers/twin.py, or the times would compare two models"
            )

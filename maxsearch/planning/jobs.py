"""The jobs that a plan compiles: a training step, and the embedding of a catalogue. They are the true programs."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maxsearch.config import Config, MeshConfig
from maxsearch.data.layout import abstract_batch, abstract_rows, check_batch
from maxsearch.encode import product_layout, product_program
from maxsearch.mesh import spec_size
from maxsearch.models.search import Words
from maxsearch.training.checkpoint import placed
from maxsearch.training.flops import flops_of, model_flops
from maxsearch.training.stages import optimizer_of
from maxsearch.training.state import abstract_state, init_params
from maxsearch.training.step import make_step


@dataclass(frozen=True)
class Program:
    """A job, traced for a mesh.

    Attributes:
      lowered: ready to be compiled.
      parameters: of the model.
      flops: of the model in one step, over all devices.
    """

    lowered: Any
    parameters: int
    flops: int


@runtime_checkable
class Job(Protocol):
    """What can be planned."""

    @property
    def name(self) -> str:
        """As the flag --job names it."""

    def mesh(self, config: Config) -> MeshConfig:
        """The mesh that it runs on."""

    def parts(self, config: Config, mesh: Mesh) -> int:
        """What a batch must be a multiple of."""

    def lower(self, config: Config, mesh: Mesh) -> Program:
        """Traces it for the current mesh.

        Raises:
          UsageError: the config does not fit the mesh.
        """


@dataclass(frozen=True)
class Train:
    """One training step of a stage; its FLOPs are three times those of a forward pass."""

    stage: int = 0
    name: str = "train"

    def mesh(self, config: Config) -> MeshConfig:
        """That of the config."""
        return config.mesh

    def parts(self, config: Config, mesh: Mesh) -> int:
        """Every device has as many rows of each microbatch."""
        return spec_size(mesh, "batch") * config.train.microbatches

    def lower(self, config: Config, mesh: Mesh) -> Program:
        """As the protocol says."""
        check_batch(config.data.batch_size, spec_size(mesh, "batch"), config.train.microbatches)
        words = stand_in_words(config)
        optimizer = optimizer_of(config, self.stage)
        state = placed(abstract_state(config, optimizer), mesh)
        batch = abstract_batch(config, mesh)
        horizon, start = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
        step = make_step(config, optimizer, words, self.stage)
        lowered = step.lower(state, batch, horizon, start)  # type: ignore[attr-defined]  # a Step is what jit made
        return Program(lowered, count(state.params), model_flops(config.stage(self.stage), state.params, batch, words))


@dataclass(frozen=True)
class Embed:
    """Embedding products, the parameters whole on every device, as `maxsearch index` and `evaluate` do."""

    name: str = "embed"

    def mesh(self, config: Config) -> MeshConfig:
        """Rows are split over all devices."""
        return MeshConfig()

    def parts(self, config: Config, mesh: Mesh) -> int:
        """Every device has as many rows."""
        return spec_size(mesh, "batch")

    def lower(self, config: Config, mesh: Mesh) -> Program:
        """As the protocol says."""
        check_batch(config.data.batch_size, spec_size(mesh, "batch"))
        whole = NamedSharding(mesh, PartitionSpec())
        params = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
            jax.eval_shape(lambda: init_params(config, jax.random.key(0))),
        )
        rows = abstract_rows(product_layout(config, config.data.batch_size), mesh)
        program = product_program(config, stand_in_words(config))
        return Program(program.lower(params, rows), count(params), flops_of(program, params, rows))


def count(params: Any) -> int:
    """Numbers in a tree of arrays."""
    return sum(x.size for x in jax.tree.leaves(params))


def stand_in_words(config: Config) -> Words:
    """As many keywords as the model has, one token each: which tokens they are changes nothing in a plan."""
    return tuple((number % config.model.vocab_size,) for number in range(config.model.keywords))

"""A job compiled for machines that are not here, and what that tells of memory, work and traffic."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from maxsearch.chips import DCN_BYTES
from maxsearch.config import Config
from maxsearch.mesh import make_mesh
from maxsearch.planning.hlo import Traffic, collectives
from maxsearch.planning.jobs import Job
from maxsearch.planning.topology import Topology

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      arguments: state and batch.
      outputs: of which the state is written in the arguments' place.
      temporaries: what the step makes and drops, as XLA adds it up.
      peak: the most that is held at once.
    """

    arguments: int
    outputs: int
    temporaries: int
    peak: int


@dataclass(frozen=True)
class Plan:
    """What one step of a job needs.

    Attributes:
      config: what was compiled.
      job: its name.
      topology: for which chips.
      mesh: sizes of the mesh's axes.
      parameters: of the model.
      memory: on one device; None when the compiler says that it does not fit.
      refusal: the compiler's words when it does not fit.
      flops: of the model in one step over all chips, recomputation not counted.
      traffic: collectives of one device in one step.
      compile_seconds: on this machine.
    """

    config: Config
    job: str
    topology: Topology
    mesh: dict[str, int]
    parameters: int
    memory: Memory | None
    refusal: str
    flops: int
    traffic: Sequence[Traffic]
    compile_seconds: float

    @property
    def hbm(self) -> int:
        """Memory of a device."""
        return self.topology.chip.hbm // self.topology.chip.devices

    @property
    def fits(self) -> bool:
        """Whether it fits into memory."""
        return self.memory is not None and self.memory.peak <= self.hbm

    @property
    def bounds(self) -> dict[str, float]:
        """Milliseconds that a step takes at least, by what bounds it; the step takes at least the largest.

        Work at the peak rate; one reading of the arguments and one writing of the outputs; what collectives send over
        all links at once, or over the data centre's network if the mesh spans slices.
        """
        chip, devices = self.topology.chip, self.topology.chip.devices
        seconds = {"compute": self.flops / self.topology.chips / chip.peak}
        if self.memory is not None:
            seconds["memory"] = (self.memory.arguments + self.memory.outputs) * devices / chip.bandwidth
        sent = sum(each.wire_bytes for each in self.traffic) * devices
        seconds["network"] = sent / (chip.link if self.topology.slices == 1 else DCN_BYTES)
        return {name: 1000 * value for name, value in seconds.items()}

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "preset": self.config.name,
            "job": self.job,
            "topology": self.topology.name,
            "slices": self.topology.slices,
            "chips": self.topology.chips,
            "mesh": self.mesh,
            "batch_size": self.config.data.batch_size,
            "microbatches": self.config.train.microbatches,
            "parameters": self.parameters,
            "hbm_bytes": self.hbm,
            "fits": self.fits,
            "memory": None if self.memory is None else vars(self.memory),
            "refusal": self.refusal,
            "model_flops": self.flops,
            "collectives": [vars(each) for each in self.traffic],
            "lower_bound_ms": self.bounds,
            "compile_seconds": round(self.compile_seconds, 1),
        }


def make_plan(config: Config, topology: Topology, devices: list[jax.Device], job: Job) -> Plan:
    """Compiles a job for a topology.

    Raises:
      UsageError: the config does not fit the mesh.
    """
    mesh = make_mesh(job.mesh(config), devices)
    with jax.set_mesh(mesh):
        program = job.lower(config, mesh)
        started = time.monotonic()
        memory, refusal, traffic = compiled(program.lowered, len(devices))
        seconds = time.monotonic() - started
    return Plan(
        config=config,
        job=job.name,
        topology=topology,
        mesh=dict(mesh.shape),
        parameters=program.parameters,
        memory=memory,
        refusal=refusal,
        flops=program.flops,
        traffic=traffic,
        compile_seconds=seconds,
    )


def compiled(lowered: Any, devices: int) -> tuple[Memory | None, str, list[Traffic]]:
    """Memory, the compiler's refusal if it has one, and traffic of a lowered program."""
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        return None, str(error).strip().splitlines()[0], []
    found = program.memory_analysis()
    memory = Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        peak=found.peak_memory_in_bytes,
    )
    return memory, "", collectives(program.as_text(), devices)

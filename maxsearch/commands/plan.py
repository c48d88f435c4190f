"""The sub-command `plan`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from maxsearch.commands.flags import ConfigFlags, OptionalPath
from maxsearch.config import Config


@dataclass(frozen=True)
class Plan:
    """Compile a preset's job for TPUs that are not here: memory, work, traffic and a bound of its time.

    --mesh.replica, --mesh.fsdp and --mesh.tensor override how the preset splits the chips.
    """

    preset: Annotated[Positional[str], arg(metavar="PRESET")]
    """A preset's name, or a Python file with get_config(). Its values are the defaults of the flags below."""
    topology: str
    """The chip and its grid: v5e:4x8, v5p:8x8x8, v6e:16x16, tpu7x:4x4x4."""
    slices: int = 1
    """How many such slices; the replica axis of the mesh spans them."""
    job: Literal["train", "embed"] = "train"
    """A training step, or the embedding of a batch of products with the parameters whole on every device."""
    stage: int = 1
    """Of a preset with stages, from 1."""
    largest_batch: bool = False
    """Search for the largest batch that fits; every try compiles."""
    out: OptionalPath = None
    """A JSON file for the figures."""
    config: ConfigFlags = field(default_factory=Config)

    def run(self) -> None:
        import os

        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the chips are not here

        import sys

        from maxsearch.errors import MaxsearchError, UsageError
        from maxsearch.files import write_json
        from maxsearch.mesh import make_mesh
        from maxsearch.models.pretrained.architecture import settle_sources
        from maxsearch.planning.jobs import Embed, Job, Train
        from maxsearch.planning.plan import Plan, make_plan
        from maxsearch.planning.report import print_plan, verdict
        from maxsearch.planning.search import largest_batch
        from maxsearch.planning.topology import devices_of, parse

        config = settle_sources(self.config, self.config)
        stages = max(len(config.stages), 1)
        if not 1 <= self.stage <= stages:
            raise UsageError(f"--stage {self.stage}: {self.preset} has {stages}, choose from 1 to {stages}")
        topology = parse(self.topology, self.slices)
        devices = devices_of(topology)
        job: Job = Embed() if self.job == "embed" else Train(self.stage - 1)

        def made(config: Config) -> Plan:
            return make_plan(config, topology, devices, job)

        def tell(plan: Plan) -> None:
            print(f"batch {plan.config.data.batch_size:,}: {verdict(plan)}", file=sys.stderr, flush=True)

        if self.largest_batch:
            parts = job.parts(config, make_mesh(job.mesh(config), devices))
            found = largest_batch(config, parts, made, tell)
            if found is None:
                raise MaxsearchError(f"no batch of {self.preset} fits on {topology.name}: split it over more chips")
        else:
            found = made(config)
        if self.out is not None:
            write_json(self.out, found.to_json())
        print_plan(found)
        if not found.fits:
            raise MaxsearchError(f"{self.preset} does not fit on {topology.name}; what would change that stands above")

"""A TPU topology that is not here: its chips, and devices that programs can be compiled for.

Only described, by libtpu's compiler (the extra `tpu`); nothing of it runs.
"""

import importlib.util
import os
import re
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.experimental import topologies

from maxsearch.chips import Chip, chip_named
from maxsearch.errors import MaxsearchError, UsageError

# Without these libtpu looks for a TPU, talks much, and lets one process of a machine use it at a time.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Topology:
    """Chips in a grid, and how many such slices there are.

    Attributes:
      chip: their kind.
      grid: chips along each axis of a slice.
      slices: connected by the data centre's network.
    """

    chip: Chip
    grid: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """As libtpu spells one slice: v5p:8x8x8."""
        return f"{self.chip.name}:{'x'.join(map(str, self.grid))}"

    @property
    def chips(self) -> int:
        """In all slices."""
        return prod(self.grid) * self.slices


def parse(text: str, slices: int = 1) -> Topology:
    """A topology from its name, such as v5e:4x8 or v5p:8x8x8.

    Raises:
      UsageError: it is none.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
    if not match:
        raise UsageError(f"--topology {text!r} is none: give the chip and its grid, such as v5e:4x8 or v5p:8x8x8")
    if slices < 1:
        raise UsageError(f"--slices must be at least 1, not {slices}")
    return Topology(chip_named(match[1]), tuple(map(int, match[2].split("x"))), slices)


def devices_of(topology: Topology) -> list[jax.Device]:
    """Devices that programs can be compiled for.

    Raises:
      UsageError: libtpu is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError("plans need the TPU compiler, which is not installed: pip install 'maxsearch[tpu]'")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    more: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    # One chip is less than what a host of four has, which must be said.
    if topology.chips == 1:
        more["chips_per_host_bounds"] = (1, 1, 1)
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **more)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"--topology {topology.name} is not known to the TPU compiler ({lines[0][:200]})") from None
    devices = list(described.devices)
    expected = topology.chips * topology.chip.devices
    if len(devices) != expected:
        raise MaxsearchError(
            f"--topology {topology.name} has {len(devices)} devices where {expected} were expected: this version of "
            "libtpu sees the chip in another way"
        )
    return devices

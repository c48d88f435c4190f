"""What accelerators can do, by the vendors' public figures, per chip."""

from dataclasses import dataclass

import jax

from maxsearch.errors import UsageError

GB, GIB, TERA = 10**9, 2**30, 10**12


@dataclass(frozen=True)
class Chip:
    """One kind of accelerator.

    Attributes:
      name: as topologies name it.
      peak: dense bfloat16 FLOP/s.
      hbm: bytes of memory.
      bandwidth: of that memory, bytes/s.
      link: bytes/s to all other chips of the slice or host together, one way.
      kinds: beginnings of what JAX calls its devices.
      devices: how many JAX devices it shows.
    """

    name: str
    peak: int
    hbm: int
    bandwidth: int
    link: int
    kinds: tuple[str, ...]
    devices: int = 1


# TPU: cloud.google.com/tpu/docs/v5e, /v5p, /v6e, /tpu7x ("system architecture"). GPU: NVIDIA's data sheets of H100 SXM
# and H200; NVLink is given there for both ways together.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197 * TERA, 16 * GIB, 819 * GB, 200 * GB, ("TPU v5 lite", "TPU v5e")),
        Chip("v5p", 459 * TERA, 95 * GIB, 2765 * GB, 600 * GB, ("TPU v5p", "TPU v5")),
        Chip("v6e", 918 * TERA, 32 * GIB, 1640 * GB, 448 * GB, ("TPU v6 lite", "TPU v6e")),
        Chip("tpu7x", 2307 * TERA, 192 * GIB, 7380 * GB, 1200 * GB, ("TPU7x", "TPU v7"), devices=2),
        Chip("h100", 989 * TERA, 80 * GB, 3350 * GB, 450 * GB, ("NVIDIA H100",)),
        Chip("h200", 989 * TERA, 141 * GB, 4800 * GB, 450 * GB, ("NVIDIA H200",)),
    )
}
DCN_BYTES = 12_500_000_000  # per chip between slices: 100 Gbit/s, what a host of four chips with 400 Gbit/s has


def chip_named(name: str) -> Chip:
    """The chip of a topology's name.

    Raises:
      UsageError: it is not known.
    """
    if name not in CHIPS:
        raise UsageError(f"--topology {name!r}: no such chip, choose from {', '.join(CHIPS)}")
    return CHIPS[name]


def chip_of(device: jax.Device) -> Chip | None:
    """The chip that a device is on; None when it is none of these."""
    fits = (chip for chip in CHIPS.values() for kind in chip.kinds if device.device_kind.startswith(kind))
    return next(fits, None)

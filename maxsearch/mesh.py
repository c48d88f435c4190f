"""Mesh axes, the one table from logical axes to mesh axes, and global arrays from host data.

Every array's logical axes are named where it is made; only this table says how a name is split over devices.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, reshard

from maxsearch.config import MeshConfig
from maxsearch.errors import UsageError

AXES = ("replica", "fsdp", "tensor")

RULES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("replica", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "hidden": "tensor",
    "vocab": "tensor",
}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The (replica, fsdp, tensor) mesh over all devices, with explicit axis types.

    Of several slices, which only the data centre's network connects, each holds a part of the replica axis: what
    crosses is what replicas exchange, gradients and negatives, never a layer's weights.

    Raises:
      UsageError: the axis sizes do not multiply to the number of devices, or replica to that of slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.replica, config.fsdp, config.tensor]
    if -1 in sizes:
        rest = -int(np.prod(sizes))
        sizes[sizes.index(-1)] = max(len(devices) // rest, 1)
    if int(np.prod(sizes)) != len(devices):
        raise UsageError(
            f"mesh (replica, fsdp, tensor) = {tuple(sizes)} needs {int(np.prod(sizes))} devices and {len(devices)} are "
            "present: set --mesh.replica, --mesh.fsdp and --mesh.tensor so that their product fits"
        )
    explicit = (AxisType.Explicit,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise UsageError(
            f"--mesh.replica {sizes[0]} cannot be cut among {slices} slices: make it a multiple, since only replicas "
            "may lie in different slices"
        )
    return Mesh(grid_of(tuple(sizes), devices, slices), AXES, axis_types=explicit)


def grid_of(sizes: tuple[int, ...], devices: list[jax.Device], slices: int) -> np.ndarray:
    """Devices by their place in the mesh; neighbours on an axis are neighbours in the machine where they can be."""

    def grid(**options: bool) -> np.ndarray:
        if slices == 1:
            return create_device_mesh(sizes, devices, **options)
        return create_hybrid_device_mesh((sizes[0] // slices, *sizes[1:]), (slices, 1, 1), devices, **options)

    try:
        return grid()
    except NotImplementedError:
        # No product of the torus' edges is as long as the axis: a part of an edge has to do.
        return grid(allow_split_physical_axes=True)


def spec(*logical: str | None, rules: Mapping[str, str | tuple[str, ...] | None] = RULES) -> PartitionSpec:
    """Mesh axes of an array whose dimensions have these logical names (None, or a name not in the table: not split).

    Raises:
      ValueError: two dimensions fall on the same mesh axis.
    """
    axes = [rules.get(name) if name is not None else None for name in logical]
    flat = [axis for entry in axes for axis in ((entry,) if isinstance(entry, str) else entry or ())]
    if len(flat) != len(set(flat)):
        raise ValueError(f"logical axes {logical} collide on the mesh: {axes}")
    return PartitionSpec(*axes)


def gathered(x: jax.Array, *logical: str | None, dtype: Any = None) -> jax.Array:
    """All-gathers the dimensions that are stored split but used whole: FSDP's weights, contrastive negatives.

    Args:
      x: what is gathered.
      *logical: the axes that stay split; None is whole.
      dtype: of the computation. It travels in this one, in bfloat16 with half the bytes.
    """
    return reshard(x if dtype is None else x.astype(dtype), spec(*logical))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays, split over the batch axes, from each process's own rows."""

    def put(rows: np.ndarray) -> jax.Array:
        sharding = NamedSharding(mesh, spec("batch", *(None,) * (rows.ndim - 1)))
        return jax.make_array_from_process_local_data(sharding, rows)

    return {name: put(rows) for name, rows in batch.items()}


def spec_size(mesh: Mesh | AbstractMesh, logical: str) -> int:
    """How many ways a logical axis is split."""
    axes = RULES.get(logical) or ()
    return int(np.prod([mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes)]))

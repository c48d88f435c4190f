"""The mesh, the table of logical axes, and global arrays from a host's rows."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from maxsearch.config import MeshConfig
from maxsearch.errors import UsageError
from maxsearch.mesh import AXES, RULES, gathered, grid_of, make_mesh, put_batch, spec, spec_size
from tests.small import set_mesh


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(replica=-1, fsdp=4), (2, 4, 1)),
        (MeshConfig(replica=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (MeshConfig(replica=1, fsdp=1, tensor=8), (1, 1, 8)),
    ],
)
def test_minus_one_takes_what_is_left(config, shape):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES == ("replica", "fsdp", "tensor")
    assert mesh.devices.shape == shape
    assert set(mesh.axis_types) == {AxisType.Explicit}


@pytest.mark.parametrize(
    ("config", "sizes", "needed"),
    [
        (MeshConfig(2, 2, 1), (2, 2, 1), 4),
        (MeshConfig(-1, 3, 1), (2, 3, 1), 6),
        (MeshConfig(-1, 16, 1), (1, 16, 1), 16),
    ],
)
def test_sizes_that_do_not_fit_the_devices_give_one_sentence(config, sizes, needed):
    with pytest.raises(UsageError) as caught:
        make_mesh(config)
    assert str(caught.value) == (
        f"mesh (replica, fsdp, tensor) = {sizes} needs {needed} devices and 8 are present: "
        "set --mesh.replica, --mesh.fsdp and --mesh.tensor so that their product fits"
    )


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 1), (1, -2, 1)])
def test_impossible_sizes_are_refused_at_once(sizes):
    with pytest.raises(UsageError, match=r"^mesh: "):
        MeshConfig(*sizes)


def test_spec_reads_the_table():
    assert spec("batch", None, "heads") == PartitionSpec(("replica", "fsdp"), None, "tensor")
    assert spec("vocab", "embed") == PartitionSpec("tensor", "fsdp")
    assert spec("unnamed", None) == PartitionSpec(None, None)
    assert spec() == PartitionSpec()
    assert set(RULES) == {"batch", "embed", "heads", "hidden", "vocab"}


@pytest.mark.parametrize("logical", [("batch", "embed"), ("heads", "hidden"), ("vocab", "heads"), ("embed", "embed")])
def test_two_dimensions_on_one_mesh_axis_are_refused(logical):
    with pytest.raises(ValueError, match=f"logical axes .*{logical[1]}.* collide on the mesh"):
        spec(*logical)


def test_spec_size_counts_the_parts():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    assert [spec_size(mesh, name) for name in ("batch", "embed", "heads", "unnamed")] == [4, 2, 2, 1]


def test_rows_are_split_over_replica_and_fsdp_in_order_and_gathered_in_order():
    rows = {"x": np.arange(16, dtype=np.int32).reshape(8, 2), "y": np.arange(8) > 3}
    with set_mesh(2, 2, 2):
        mesh = jax.sharding.get_mesh()
        batch = put_batch(rows, mesh)
        assert batch["x"].sharding.spec == PartitionSpec(("replica", "fsdp"), None)
        for shard in batch["x"].addressable_shards:
            replica, fsdp, _ = np.argwhere(mesh.devices == shard.device)[0]
            start = 2 * (2 * replica + fsdp)
            np.testing.assert_array_equal(shard.data, rows["x"][start : start + 2])
        whole = jax.jit(lambda x: gathered(x, None, None))(batch["x"])
        assert whole.sharding.spec == PartitionSpec(None, None)
        for shard in whole.addressable_shards:
            np.testing.assert_array_equal(shard.data, rows["x"])
    np.testing.assert_array_equal(batch["y"], rows["y"])


@pytest.mark.parametrize(("slices", "maker"), [(1, "create_device_mesh"), (2, "create_hybrid_device_mesh")])
def test_an_axis_that_no_torus_edges_make_up_is_laid_along_a_part_of_one(monkeypatch, slices, maker):
    def made(*arguments: object, allow_split_physical_axes: bool = False) -> np.ndarray:
        if not allow_split_physical_axes:
            raise NotImplementedError
        return np.zeros((4, 2, 1))

    monkeypatch.setattr(f"maxsearch.mesh.{maker}", made)
    assert grid_of((4, 2, 1), [], slices).shape == (4, 2, 1)

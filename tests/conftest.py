"""Eight simulated devices, shapes checked in every annotated function, and a mesh of one device."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports jax or maxsearch.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("NPROC", "32")  # threads of XLA; see maxsearch.local_launch.THREADS_PER_DEVICE
install_import_hook("maxsearch", "beartype.beartype")

# How long an example takes says how busy the machine is.
settings.register_profile("maxsearch", deadline=None)
settings.load_profile("maxsearch")


@pytest.fixture
def one_device() -> Iterator[None]:
    """The mesh of a laptop is set: every axis has size 1."""
    from tests.small import set_mesh

    with set_mesh(1, 1, 1):
        yield


@pytest.fixture
def quick_compile() -> Iterator[None]:
    """Programs are compiled without most optimizations: small ones take longer to compile than to run."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def laptop(monkeypatch: pytest.MonkeyPatch, quick_compile: None) -> None:
    """Runs in this process train on one device, and compile quickly."""
    import jax

    from maxsearch.config import MeshConfig
    from maxsearch.mesh import make_mesh
    from maxsearch.training import opening

    monkeypatch.setattr(opening, "make_mesh", lambda config: make_mesh(MeshConfig(), jax.devices()[:1]))

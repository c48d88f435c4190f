"""What makes XLA's programs faster on CPU: options of its compiler, and memory that stays with the process."""

from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec

import jax

from maxsearch.allocator import keep_freed_memory

# Fewer copies of buffers that a loop or call could share, and matrix products by XLA's newer library. Neither is XLA's
# default yet; docs/results.md has what they gain.
STEP_OPTIONS: dict[str, bool | str] = {
    "xla_cpu_copy_insertion_use_region_analysis": True,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}


def step_options() -> dict[str, bool | str] | None:
    """The compiler's options for a training step on the current mesh: those of STEP_OPTIONS that the installed jaxlib
    knows; None where the mesh is not of CPU devices."""
    mesh = jax.sharding.get_mesh()
    platform = jax.default_backend() if mesh.empty else mesh.devices.flat[0].platform
    return known_options() if platform == "cpu" else None


@cache
def known_options() -> dict[str, bool | str]:
    """Those of STEP_OPTIONS that the installed jaxlib knows: they may go as they came, and are no reason to fail."""
    return {name: value for name, value in STEP_OPTIONS.items() if _known(name, value)}


def _known(name: str, value: bool | str) -> bool:
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def settle_memory() -> bool:
    """Has freed memory kept where the CPU is all that JAX has; to be called before JAX starts its threads.

    Elsewhere the host's memory is not what a step waits for.
    """
    return _alone() and keep_freed_memory()


def _alone() -> bool:
    """Asked of what is installed, because asking JAX for its devices would start them."""
    platforms = getattr(jax.config, "jax_platforms", None)  # JAX declares its flags at run time
    if platforms:
        return bool(platforms == "cpu")
    return not entry_points(group="jax_plugins") and find_spec("libtpu") is None

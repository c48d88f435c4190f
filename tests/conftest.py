"""Eight simulated devices, and shapes checked in every annotated function."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from beartype import BeartypeConf, BeartypeStrategy  # noqa: F401
from jaxtyping import install_import_hook

install_import_hook("maxsearch", "beartype.beartype")

"""Pretrain, prove and serve text-to-multimodal product search with JAX and Flax."""

import os
from importlib.metadata import PackageNotFoundError, version

# Before any import of transformers, which would tell on every start that PyTorch is absent.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

try:
    __version__ = version("maxsearch")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.1.0"

"""Pretrain, prove and serve text-to-multimodal product search with JAX and Flax."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("maxsearch")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.1.0"

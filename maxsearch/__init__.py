"""Pretrain, prove and serve text-to-multimodal product search with JAX and Flax."""

import os

# Before any import of transformers, which would tell on every start that PyTorch is absent.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.2.0"

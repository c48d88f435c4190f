"""The files of an exported model: safetensors weights, JSON config, tokenizer and a checksummed manifest."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from maxsearch.errors import MaxsearchError
from maxsearch.manifest import FolderKind, read_manifest
from maxsearch.weight_formats import SCALE, WeightFormat, packed, unpacked

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer"
FORMAT = "weights"  # names the format of the weights in their file's own header

MODEL = FolderKind(
    name="maxsearch-model",
    what="model",
    schema_version=2,  # 1 carried the heads that only training uses
    remedy="write it with `maxsearch export`",
    required=(WEIGHTS, CONFIG, f"{TOKENIZER}/tokenizer.json"),
    fields={"fingerprint": str},
)


def verify_model(folder: Path, *, checksums: bool = True) -> dict[str, Any]:
    """Reads the manifest of an exported model and checks every file against it.

    Args:
      folder: what `maxsearch export` wrote.
      checksums: also compare each file's SHA-256; without it, only presence and size.

    Returns:
      The manifest; `fingerprint` names the model, `step` the training step.

    Raises:
      MaxsearchError: no model folder, another schema version, or a file that is missing, cut short or altered.
    """
    return read_manifest(folder, MODEL, checksums=checksums)


def flatten_params(params: Mapping[Any, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Flattens a nested dict of arrays to `a/b/c` names, as C-contiguous NumPy arrays of the same type.

    Raises:
      ValueError: a name is not a string, or contains a slash.
    """
    flat: dict[str, np.ndarray] = {}
    for name, value in params.items():
        if not isinstance(name, str) or "/" in name:
            raise ValueError(f"parameter name {name!r} below {prefix!r} must be a string without slashes")
        if isinstance(value, Mapping):
            flat |= flatten_params(value, f"{prefix}{name}/")
        else:
            # safetensors writes the buffer as it lies, so a transposed view would come back scrambled.
            flat[prefix + name] = np.asarray(value, order="C")
    return flat


def unflatten_params(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Reverses `flatten_params`."""
    params: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return params


def write_weights(folder: Path, params: Mapping[str, Any], kind: WeightFormat = "float32") -> None:
    """Writes the nested parameters to the folder's safetensors file; equal parameters give equal bytes."""
    write_arrays(folder / WEIGHTS, packed(flatten_params(params), kind), {FORMAT: kind})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file that others may read, which the library's own call makes private."""
    save_file(dict(arrays), path, dict(header or {}))
    path.chmod(0o644)


def read_weights(folder: Path) -> dict[str, Any]:
    """Reads the nested parameters back, in float32 whatever their format; the folder has passed `verify_model`."""
    return unflatten_params(read_flat_weights(folder))


def read_flat_weights(folder: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The same by their paths.

    Args:
      folder: it has passed `verify_model`.
      names: read only these.

    Raises:
      MaxsearchError: a name is not there.
    """
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        kind = (file.metadata() or {}).get(FORMAT, "float32")
        kept = set(file.keys())
        wanted = kept if names is None else {n for name in names for n in (name, name + SCALE) if n in kept}
        missing = sorted(set(names or ()) - kept)
        if missing:
            raise MaxsearchError(f"{folder / WEIGHTS} holds no parameter {missing[0]}: {MODEL.remedy}")
        return unpacked({name: file.get_tensor(name) for name in sorted(wanted)}, cast(WeightFormat, kind))

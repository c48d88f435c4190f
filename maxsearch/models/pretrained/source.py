"""Finds a pretrained source by path or Hub name: its weights, its config and its tokenizer. No file of it is run."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIG = "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")  # what is fetched of a Hub model
UNWANTED = ("onnx/*", "openvino/*", "*/*.safetensors")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
RENAMED = (("gamma", "weight"), ("beta", "bias"))  # norms in the oldest files
KINDS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Source:
    """A pretrained model's files.

    Attributes:
      name: as the user gave it.
      folder: where its config and tokenizer stand.
      files: its safetensors.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]

    @cached_property
    def places(self) -> Mapping[str, tuple[Path, str]]:
        """File and name in it of each array, by its modern name.

        Raises:
          MaxsearchError: a file cannot be read.
        """
        found = {}
        for path in self.files:
            for name in opened(path).keys():  # noqa: SIM118 - not a dict
                parent, _, last = name.rpartition(".")
                modern = dict(RENAMED).get(last, last)
                found[f"{parent}.{modern}" if parent else modern] = (path, name)
        return found

    def arrays(self, names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array in float32) of these, one file after the other, which is mapped and not read as a whole.

        Raises:
          MaxsearchError: one holds no floating-point numbers.
        """
        wanted = set(names)
        for path in self.files:
            file = opened(path)
            for name in sorted(wanted):
                place, kept = self.places[name]
                if place != path:
                    continue
                array = file.get_tensor(kept)
                if array.dtype not in KINDS:
                    raise MaxsearchError(
                        f"{path}: {kept} holds {array.dtype}, not floating-point numbers: take the unquantised model"
                    )
                yield name, array.astype(np.float32)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        path, kept = self.places[name]
        return tuple(opened(path).get_slice(kept).get_shape())

    def prefix(self, anchor: str) -> str | None:
        """What stands before a tower's names, by the name that only it has; None where it is not there."""
        found = [name[: -len(anchor)] for name in self.places if name == anchor or name.endswith(f".{anchor}")]
        return min(found, key=len) if found else None

    @cached_property
    def open_clip(self) -> bool:
        """Whether its names are those of OpenAI's CLIP and of open_clip."""
        return any(name.endswith("transformer.resblocks.0.attn.in_proj_weight") for name in self.places)

    @cached_property
    def config(self) -> Any:
        """The config of `transformers`, with the defaults of its class filled in.

        Raises:
          UsageError: there is none, or none that it knows.
        """
        from transformers import AutoConfig

        if not (self.folder / CONFIG).is_file():
            raise UsageError(f"{self.folder} holds no {CONFIG}, which says what the weights are: copy it there")
        try:
            return AutoConfig.from_pretrained(str(self.folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises anything from KeyError to OSError
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(f"{self.folder / CONFIG} cannot be used ({reason})") from None


def opened(path: Path) -> Any:
    """A safetensors file, its arrays not read yet.

    Raises:
      MaxsearchError: it is damaged or absent.
    """
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise MaxsearchError(f"{path} is no readable safetensors file ({error}): fetch or write it again") from None


def find_source(name: str) -> Source:
    """The source of a name.

    Args:
      name: a folder, a .safetensors file, or the name of a Hub model, which is fetched unless it is in the Hub's cache.

    Raises:
      UsageError: nothing is there, it is not to be had offline or without permission, or its weights are pickled.
      MaxsearchError: a file is damaged.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UsageError(f"{path} is no .safetensors file: {unpickled('it')}")
        return Source(name, path.parent, (path,))
    if not path.is_dir():
        if not HUB_NAME.fullmatch(name):
            raise UsageError(f"{name} is neither a folder, a .safetensors file nor the name of a Hub model")
        path = fetched(name)
    return Source(name, path, weights_in(path))


def weights_in(folder: Path) -> tuple[Path, ...]:
    """The safetensors of a model's folder."""
    for name in (WEIGHTS, OPEN_CLIP_WEIGHTS):
        if (folder / name).is_file():
            return (folder / name,)
    if (folder / INDEX).is_file():
        value = read_json(folder / INDEX, what="index of weights", remedy="fetch or write it again")
        parts = value.get("weight_map") if isinstance(value, dict) else None
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise MaxsearchError(f"{folder / INDEX} has no weight_map from names to files: fetch or write it again")
        return tuple(folder / Path(part).name for part in sorted(set(parts.values())))
    pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickled:
        raise UsageError(f"{folder} holds its weights only as {pickled[0]}, a pickle: {unpickled('the model')}")
    raise UsageError(f"{folder} holds no {WEIGHTS}, {INDEX} or {OPEN_CLIP_WEIGHTS}")


def unpickled(what: str) -> str:
    """The remedy for pickled weights."""
    return (
        f"loading a pickle runs whatever program it holds, so save {what} as safetensors where you trust it, with "
        "model.save_pretrained(FOLDER) of transformers or safetensors.torch.save_file"
    )


def fetched(name: str) -> Path:
    """The folder of a Hub model in the local cache, fetched if need be; HF_HUB_OFFLINE is honoured.

    Raises:
      UsageError: it does not exist, is gated, or cannot be had now.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))
    except GatedRepoError:
        raise UsageError(f"the Hub model {name} is gated: accept its terms, log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UsageError(f"{name} is no folder here, and the Hub has no such model, or none that you may see") from None
    except Exception as error:  # network failures have many classes, of several libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{name} is no folder here, and the Hub model of this name is neither in the cache nor to be fetched "
            f"({reason}): give the folder of a downloaded model"
        ) from None

"""An exported model run by its programs: jax and the folder's files, and nothing of the model's code.

B batch, T words, D size of the vectors.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jaxtyping import Float32
from tokenizers import Tokenizer

from maxsearch.data.records import Product
from maxsearch.data.text_rows import TextRows
from maxsearch.errors import MaxsearchError
from maxsearch.inputs import EncodedProducts, padded, power_of_two, product_arrays
from maxsearch.model_files import MODEL, TOKENIZER, read_flat_weights, verify_model
from maxsearch.program_files import INPUTS, PRODUCT_PROGRAM, QUERY_PROGRAM, ProgramInputs, read_inputs

MAX_QUERIES = 256
PRODUCT_SIZES = (1, 8, 64)
"""Batches of products are filled up to one of these, or to the size asked for: each size compiles for seconds."""


class ExportedEncoder:
    """Embeds queries and products as `maxsearch.encode.Encoder` does, to rounding, on one device.

    Safe to call from several threads. A program compiles for each shape of batch that it meets; `warm_up` does so
    ahead.

    Attributes:
      folder: the model folder.
      manifest: its manifest.
      inputs: what the programs read and give.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], inputs: ProgramInputs) -> None:
        self.folder, self.manifest, self.inputs = folder, manifest, inputs
        tokenizer = _read_tokenizer(folder / TOKENIZER / "tokenizer.json")
        self._query_text = TextRows(tokenizer, inputs.query_tokens, inputs.pad_id)
        self._title_text = TextRows(tokenizer, inputs.title_tokens, inputs.pad_id)
        self._query = _Program(folder, QUERY_PROGRAM)

    @classmethod
    def load(cls, folder: Path, *, checksums: bool = True) -> "ExportedEncoder":
        """Opens an exported model; what embeds products is read when it is first needed.

        Args:
          folder: what `maxsearch export` wrote.
          checksums: also compare each file's SHA-256; without it, only presence and size.

        Raises:
          MaxsearchError: a file is missing, altered, or of another version, or the model was exported without programs.
        """
        manifest = verify_model(folder, checksums=checksums)
        for name in (QUERY_PROGRAM, PRODUCT_PROGRAM, INPUTS):
            if name not in manifest["files"]:
                raise MaxsearchError(f"the model {folder} has no {name}: {MODEL.remedy}")
        return cls(folder, manifest, read_inputs(folder))

    @property
    def fingerprint(self) -> str:
        """That of the model, as its export checked it."""
        return str(self.manifest["fingerprint"])

    @property
    def dim(self) -> int:
        """Size of the vectors."""
        return self.inputs.dim

    @property
    def image_edge(self) -> int:
        """Longest side, in pixels, that product images are fitted to before the model's own resize."""
        return self.inputs.image_edge

    def encode_queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Unit vectors of query texts."""
        parts = [self._queries(queries[i : i + MAX_QUERIES]) for i in range(0, len(queries), MAX_QUERIES)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[EncodedProducts]:
        """Embeds products batch by batch, in order.

        Args:
          products: any number of records; images as `read_products` gives them.
          batch_size: how many at once, at most.
        """
        iterator = iter(products)
        while chunk := list(islice(iterator, batch_size)):
            size = next(size for size in (*PRODUCT_SIZES, batch_size) if size >= len(chunk))
            arrays = self.product_arrays(chunk)
            found = self._product({name: padded(rows, min(size, batch_size)) for name, rows in arrays.items()})
            yield EncodedProducts(chunk, **{name: rows[: len(chunk)] for name, rows in found.items()})

    def warm_up(self, queries: Sequence[int] = (1, 2, 4, 8, 16, 32), products: Sequence[int] = (1,)) -> float:
        """Compiles what batches of these sizes will need, so that no caller waits for it.

        Args:
          queries: batch sizes, which are filled up to powers of two.
          products: batch sizes, as `encode_products` fills them up.

        Returns:
          The seconds that it took.
        """
        start = time.perf_counter()
        for size in sorted({power_of_two(size) for size in queries}):
            for length in self.inputs.query_lengths:
                self._query({"ids": np.zeros((size, length), np.int32), "mask": np.ones((size, length), bool)})
        for size in products:
            list(self.encode_products([Product("", "")] * size, size))
        return time.perf_counter() - start

    def query_arrays(self, queries: Sequence[str]) -> dict[str, np.ndarray]:
        """Queries as the program reads them: ids int32 [B, T] and mask bool [B, T], T the least of the lengths."""
        ids, mask = self._query_text(queries)
        longest = int(mask.sum(axis=1).max(initial=0))
        length = next(length for length in self.inputs.query_lengths if length >= longest)
        return {"ids": ids[:, :length], "mask": mask[:, :length]}

    def product_arrays(self, products: Sequence[Product]) -> dict[str, np.ndarray]:
        """Products as the program reads them; see `maxsearch.inputs.product_arrays`."""
        inputs = self.inputs
        return product_arrays(
            products, self._title_text, texts=inputs.texts, images=inputs.images, size=inputs.image_size
        )

    def _queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        size = power_of_two(len(queries))
        arrays = self.query_arrays(queries)
        return self._query({name: padded(rows, size) for name, rows in arrays.items()})["q"][: len(queries)]

    @cached_property
    def _product(self) -> "_Program":
        return _Program(self.folder, PRODUCT_PROGRAM)


class _Program:
    """A program with the parameters that it reads."""

    def __init__(self, folder: Path, name: str) -> None:
        try:
            exported = jax_export.deserialize(bytearray((folder / name).read_bytes()))
        except Exception as error:  # the flatbuffer reader raises what it stumbles over, from struct.error to KeyError
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MaxsearchError(
                f"the program {folder / name} cannot be read by jax {jax.__version__} ({reason}): {MODEL.remedy}"
            ) from None
        here = jax.default_backend()
        platform = {"gpu": "cuda"}.get(here, here)
        if platform not in exported.platforms:
            raise MaxsearchError(
                f"the program {folder / name} runs on {', '.join(exported.platforms)} and jax uses {platform} here: "
                "set JAX_PLATFORMS=cpu"
            )
        names = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][0]
        self._params = {key: jax.device_put(value) for key, value in read_flat_weights(folder, list(names)).items()}
        self._call = jax.jit(exported.call)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in self._call(self._params, dict(batch)).items()}


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust parser raises plain Exception
        raise MaxsearchError(f"the tokenizer {path} cannot be read ({error}): {MODEL.remedy}") from None

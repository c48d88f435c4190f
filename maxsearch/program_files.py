"""The files of an exported model that its programs need, and what the programs read and give.

B batch, T words, D size of the vectors.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import dacite
import numpy as np

from maxsearch.errors import MaxsearchError
from maxsearch.files import read_json, write_json
from maxsearch.model_files import MODEL

QUERY_PROGRAM = "programs/query.jaxexport"
PRODUCT_PROGRAM = "programs/product.jaxexport"
INPUTS = "programs/inputs.json"

PROBES = "probes/probes.json"
PROBE_ARRAYS = "probes/arrays.safetensors"
PROBE_VECTORS = "probes/vectors.safetensors"

FEWEST_TOKENS = 8


@dataclass(frozen=True)
class ProgramInputs:
    """What the programs read and give.

    Attributes:
      dim: D.
      dtype: of the computation, float32 or bfloat16; vectors are float32 whatever it is.
      query_tokens: the most tokens of a query; fewer may be given.
      title_tokens: T, tokens of each text field of a product.
      texts: text fields of a product, which stand end to end.
      images: pictures of a product.
      image_size: (H, W) of a picture in pixels.
      image_edge: longest side, in pixels, that a catalogue's pictures are fitted to before.
      pad_id: token that fills rows up.
    """

    dim: int
    dtype: Literal["float32", "bfloat16"]
    query_tokens: int
    title_tokens: int
    texts: int
    images: int
    image_size: tuple[int, int]
    image_edge: int
    pad_id: int

    @property
    def query_lengths(self) -> tuple[int, ...]:
        """The lengths that queries are filled up to: a quarter of the longest where that is 8 or more, and the longest.

        Most queries are short, and two lengths cost two programs per batch size.
        """
        short = self.query_tokens // 4
        return (short, self.query_tokens) if short >= FEWEST_TOKENS else (self.query_tokens,)

    def product_shapes(self, batch: Any) -> dict[str, tuple[tuple[Any, ...], Any]]:
        """Shape and dtype of what the product program reads, for a batch of that size, which may be symbolic."""
        text = (batch, self.texts * self.title_tokens)
        return {
            "ids": (text, np.int32),
            "mask": (text, np.bool_),
            "image": ((batch, self.images, *self.image_size, 3), np.uint8),
            "present": ((batch, self.images), np.bool_),
        }


def write_inputs(folder: Path, inputs: ProgramInputs) -> None:
    """Writes the description as JSON."""
    write_json(folder / INPUTS, asdict(inputs))


def read_inputs(folder: Path) -> ProgramInputs:
    """Reads what `write_inputs` wrote.

    Raises:
      MaxsearchError: the file is absent, or a field is missing, unknown or of another type.
    """
    value = read_json(folder / INPUTS, what="description of the programs' inputs", remedy=MODEL.remedy)
    try:
        return dacite.from_dict(ProgramInputs, value, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, TypeError, AttributeError) as error:
        raise MaxsearchError(
            f"{folder / INPUTS} does not describe the programs' inputs ({error}): {MODEL.remedy}"
        ) from None

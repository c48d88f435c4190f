"""A TFDS dataset of pictures with texts as a source of examples."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64

from maxsearch.data.sources import EpochDraws, RawExample, digest
from maxsearch.errors import MaxsearchError, UsageError


class TfdsSource:
    """Pictures with texts from a TFDS dataset on disk: the text is the query, the picture the product.

    Every record is drawn once an epoch. Where it has several texts, one of them is drawn.
    """

    def __init__(
        self,
        spec: str,
        image_key: str = "image",
        text_key: str = "text",
        *,
        seed: int = 0,
        data_dir: Path | None = None,
    ) -> None:
        """Opens the dataset; nothing is downloaded.

        Args:
          spec: "tfds:NAME[:SPLIT]" with NAME as TFDS writes it (such as "coco_captions/2014:1.1.0"); without a split,
            "train".
          image_key: the image feature; "a/b" for a nested one.
          text_key: the text feature, likewise; it may be, or lie in, a sequence.
          seed: decides the order and the choice of texts.
          data_dir: the folder of TFDS datasets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

        Raises:
          UsageError: the spec, the split or a key names nothing that exists.
          MaxsearchError: the dataset is not on disk, or not in a format with random access.
        """
        self._name, self._split = parse_tfds(spec)
        self._image_key, self._text_key = image_key, text_key
        self._seed = seed
        # Asked here, because TFDS itself reads the variable only once, when it is imported.
        self._data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
        self._records: Sequence[Any] | None = None
        builder = self._builder()
        _check_key(builder.info, image_key, tfds.features.Image, "image")
        _check_key(builder.info, text_key, tfds.features.Text, "text")
        count = len(self._open(builder))
        if not count:
            raise MaxsearchError(f"the split {self._split!r} of the TFDS dataset {self._name} is empty: choose another")
        self._draws = EpochDraws(np.ones(count), seed)
        folder = Path(builder.data_dir)
        description = [(folder / name).read_text(encoding="utf-8") for name in ("dataset_info.json", "features.json")]
        self.fingerprint = digest("tfds", builder.info.full_name, self._split, image_key, text_key, seed, *description)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None}

    def __len__(self) -> int:
        return len(self._draws)

    @property
    def lexicon(self) -> None:
        """TFDS data come without keywords."""

    def examples(self, draws: Sequence[int]) -> Iterator[RawExample]:
        """The examples of these draws, in this order."""
        records = self._opened()
        for draw, position in zip(draws, self._draws.positions(draws).tolist(), strict=True):
            record = records[position]
            texts = said = _texts(record, self._text_key)
            if len(texts) > 1:
                # The counter's last word keeps these numbers apart from the stream's own under the same key.
                rng = np.random.Generator(np.random.Philox(key=[self._seed, draw], counter=[0, 0, 0, 1]))
                texts = [texts[rng.integers(len(texts))]]
            yield RawExample(
                query=texts[0] if texts else "",
                title="",
                images=(_value(record, self._image_key),),
                product=position,
                said=tuple(said),
            )

    def texts(self) -> Iterator[str]:
        """Every text of the split."""
        for record in self._opened():
            yield from _texts(record, self._text_key)

    @property
    def sizes(self) -> tuple[int, int]:
        """The records, which are queries and products alike."""
        return len(self), len(self)

    def pairs(self, draws: Sequence[int]) -> Int64[np.ndarray, "k 2"]:
        """The record, twice."""
        positions = self._draws.positions(draws)
        return np.stack([positions, positions], axis=1)

    def groups(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """Every draw by itself."""
        return np.asarray(draws, np.int64)

    def query_texts(self) -> Iterator[Sequence[str]]:
        """The texts of each record, of which one is drawn."""
        for record in self._opened():
            yield _texts(record, self._text_key)

    def product_texts(self) -> Iterator[Sequence[str]]:
        """No title."""
        for _ in range(len(self)):
            yield ("",)

    def _opened(self) -> Sequence[Any]:
        if self._records is None:
            self._records = self._open(self._builder())
        return self._records

    def _builder(self) -> tfds.core.DatasetBuilder:
        where = self._data_dir or "$TFDS_DATA_DIR (by default ~/tensorflow_datasets)"
        remedy = "build it there with download_and_prepare and file_format='array_record'"
        try:
            builder = tfds.builder(self._name, data_dir=self._data_dir)
        except (tfds.core.registered.DatasetNotFoundError, ValueError, FileNotFoundError):
            raise MaxsearchError(f"there is no TFDS dataset {self._name} in {where}: {remedy}") from None
        if not builder.info.splits:
            raise MaxsearchError(f"the TFDS dataset {self._name} is not in {where}: {remedy}")
        return builder

    def _open(self, builder: tfds.core.DatasetBuilder) -> Sequence[Any]:
        decoders = _skip_images(builder.info.features)  # the stream decodes, and survives a damaged picture
        try:
            return builder.as_data_source(self._split, decoders=decoders)
        except NotImplementedError:
            raise MaxsearchError(
                f"the TFDS dataset {self._name} in {builder.data_dir} has no random access: "
                "build it again with file_format='array_record'"
            ) from None
        except ValueError:
            known = ", ".join(sorted(builder.info.splits))
            raise UsageError(
                f"the TFDS dataset {self._name} has no split {self._split!r}: choose from {known}, or a slice of one"
            ) from None


def parse_tfds(spec: str) -> tuple[str, str]:
    """Splits "tfds:NAME[:SPLIT]" into name and split; a version (1.2.3) belongs to the name.

    Raises:
      UsageError: the text is not of that form.
    """
    match = re.fullmatch(r"tfds:([\w.-]+(?:/[^:/]+)?(?::\d+\.\d+\.\d+)?)(?::(.+))?", spec)
    if not match:
        raise UsageError(f"{spec!r} names no TFDS dataset: write tfds:NAME or tfds:NAME:SPLIT")
    return match[1], match[2] or "train"


def _leaves(feature: Any, key: str = "", repeated: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """(key, feature, lies in a sequence) of all features below one."""
    if isinstance(feature, tfds.features.FeaturesDict):
        for name, child in feature.items():
            yield from _leaves(child, f"{key}/{name}" if key else name, repeated)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, key, True)
    else:
        yield key, feature, repeated


def _check_key(info: tfds.core.DatasetInfo, key: str, kind: type, what: str) -> None:
    keys = [
        name
        for name, feature, repeated in _leaves(info.features)
        if isinstance(feature, kind) and not (repeated and kind is tfds.features.Image)
    ]
    if key not in keys:
        known = f"choose from {', '.join(keys)}" if keys else "choose a dataset that has one"
        raise UsageError(f"the TFDS dataset {info.name} has no {what} feature {key!r}: {known}")


def _skip_images(features: Any) -> dict[str, Any]:
    """Decoders that leave every picture encoded."""
    decoders: dict[str, Any] = {}
    for name, feature in features.items():
        if isinstance(feature, tfds.features.Image):
            decoders[name] = tfds.decode.SkipDecoding()
        elif isinstance(feature, tfds.features.FeaturesDict) and (inner := _skip_images(feature)):
            decoders[name] = inner
    return decoders


def _value(record: Any, key: str) -> Any:
    for name in key.split("/"):
        record = record[name]
    return record


def _texts(record: Any, key: str) -> list[str]:
    value = _value(record, key)
    values = [value] if isinstance(value, bytes | str) else np.ravel(np.asarray(value, object)).tolist()
    return [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in values]

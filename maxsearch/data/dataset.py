"""A prepared dataset on disk, opened for random access."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from maxsearch.data.keywords import KEYWORDS, PRODUCT_KEYWORDS, Lexicon
from maxsearch.data.product_keywords import TABLE, CatalogueKeywords, ProductKeywords
from maxsearch.data.records import SCHEMA_VERSION, Interaction, Product, unpack_interaction, unpack_product
from maxsearch.data.tables.formats import first_line
from maxsearch.data.tokens.table import TOKENS, TokenTable, sound_entry
from maxsearch.errors import MaxsearchError
from maxsearch.files import read_json, sha256_of
from maxsearch.manifest import MANIFEST

T = TypeVar("T")

KIND = "maxsearch-data"
SPLITS_KIND = "maxsearch-data-splits"
REMEDY = "run `maxsearch prepare` again"
READ_BLOCK = 512  # records that iteration reads at a time


@dataclass(frozen=True)
class Shard:
    """One file of records, in the form that ArrayRecordDataSource takes without opening every file to count it."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """All records of the file."""
        return self.take


class DamagedRecordError(MaxsearchError):
    """A record of a shard that cannot be read."""


class Records(Sequence[T], Generic[T]):
    """Records of one kind by position, read from disk on demand; may be pickled to worker processes."""

    def __init__(self, shards: Sequence[Shard], unpack: Callable[[bytes], T]) -> None:
        self._shards = tuple(shards)
        self._unpack = unpack
        self._ends = list(accumulate(shard.take for shard in shards))
        self._source = ArrayRecordDataSource(self._shards)

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> list[T]: ...
    def __getitem__(self, position: int | slice) -> T | list[T]:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(len(self)))]
        index = position.__index__()
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"position {position} of {len(self)} records")
        try:
            return self._unpack(self._source[index])
        except Exception as error:
            raise self._damaged(self.where(index), error) from None

    def where(self, position: int) -> str:
        """Which record of which file a position is."""
        number = bisect_right(self._ends, position)
        shard = self._shards[number]
        return f"record {position - self._ends[number] + shard.take} of the data shard {shard.filename}"

    def __iter__(self) -> Iterator[T]:
        for shard in self._shards:
            start = 0
            try:
                reader = ArrayRecordReader(shard.filename)
                for start in range(0, shard.take, READ_BLOCK):
                    for data in reader.read(start, min(start + READ_BLOCK, shard.take)):
                        record = self._unpack(data)
                        yield record
                reader.close()
            except Exception as error:
                some = f"one of the records {start} to {min(start + READ_BLOCK, shard.take) - 1}"
                raise self._damaged(f"{some} of the data shard {shard.filename}", error) from None

    @staticmethod
    def _damaged(where: str, error: Exception) -> DamagedRecordError:
        return DamagedRecordError(f"{where} is damaged ({first_line(error)[:200]}): {REMEDY}")


@dataclass(frozen=True)
class PreparedDataset:
    """What `maxsearch prepare` wrote.

    Attributes:
      path: the folder.
      manifest: its manifest.json.
      products: the products, by position.
      interactions: the interactions, by position.
      keywords: the keywords, None when the data were prepared without.
      tokens: the token ids of all texts, None when the data were prepared without.
    """

    path: Path
    manifest: dict[str, Any]
    products: Records[Product]
    interactions: Records[Interaction]
    keywords: CatalogueKeywords | None
    tokens: TokenTable | None = None

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the checksums of shards and keywords: equal for equal data, with token ids or without."""
        return self.manifest["fingerprint"]

    @classmethod
    def open(cls, path: Path, *, verify: bool = False) -> "PreparedDataset":
        """Opens a folder after a check that every file is there with its size.

        Args:
          path: the folder.
          verify: also read every file and compare checksums.

        Raises:
          MaxsearchError: there is no usable manifest, or a file is missing or differs from it.
        """
        manifest = read_manifest(path)
        return cls(
            path=path,
            manifest=manifest,
            products=Records(_shards(path, manifest["products"], verify), unpack_product),
            interactions=Records(_shards(path, manifest["interactions"], verify), unpack_interaction),
            keywords=_keywords(path, manifest, verify),
            tokens=_tokens(path, manifest, verify),
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads and checks the manifest of a prepared folder.

    Raises:
      MaxsearchError: it is absent, of another kind or schema version, lacks an entry, or its fingerprint is not that
        of its entries.
    """
    file = path / MANIFEST
    manifest = read_json(file, what="data manifest", remedy="prepare the folder with `maxsearch prepare --out`")
    if isinstance(manifest, dict) and manifest.get("kind") == SPLITS_KIND:
        parts = ", ".join(sorted(manifest.get("parts", ())))
        raise MaxsearchError(f"{path} holds prepared data in parts: give the folder of one ({parts}) in it")
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise MaxsearchError(
            f"{file} is not the manifest of prepared data: give a folder that `maxsearch prepare` wrote"
        )
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise MaxsearchError(
            f"{file} has schema version {version}, but this maxsearch reads {SCHEMA_VERSION}: {REMEDY}"
        )
    try:
        whole = isinstance(manifest["fingerprint"], str) and all(
            part["shards"]
            and part["count"] == sum(shard["records"] for shard in part["shards"])
            # A name that leads out of the folder was not written by prepare.
            and all(
                Path(shard["name"]).name == shard["name"] and shard["sha256"] and shard["bytes"]
                for shard in part["shards"]
            )
            for part in (manifest["products"], manifest["interactions"])
        )
        files = manifest["keywords"]["files"]
        whole = whole and (not files or {file["name"] for file in files} == {KEYWORDS, TABLE})
        whole = whole and (TOKENS not in manifest or sound_entry(manifest[TOKENS]))
        fingerprint = fingerprint_of(manifest)
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise MaxsearchError(f"{file} lacks entries or contradicts itself: {REMEDY}")
    if manifest["fingerprint"] != fingerprint:
        raise MaxsearchError(
            f"{file} was altered: its fingerprint is not that of the checksums that it lists; restore it, or {REMEDY}"
        )
    return manifest


def fingerprint_of(manifest: dict[str, Any]) -> str:
    """The fingerprint that belongs to a manifest's checksums of shards and keywords."""
    files = [*manifest["products"]["shards"], *manifest["interactions"]["shards"], *manifest["keywords"]["files"]]
    return hashlib.sha256("\n".join(file["sha256"] for file in files).encode()).hexdigest()


def _shards(path: Path, part: dict[str, Any], verify: bool) -> list[Shard]:
    shards = []
    for entry in part["shards"]:
        file = _checked(path, entry, verify, what="data shard")
        shards.append(Shard(filename=str(file.absolute()), take=entry["records"]))
    return shards


def _keywords(path: Path, manifest: dict[str, Any], verify: bool) -> CatalogueKeywords | None:
    files = manifest["keywords"]["files"]
    for entry in files:
        _checked(path, entry, verify or entry["name"] == KEYWORDS, what="keywords file")
    if not files:
        return None
    found = CatalogueKeywords(Lexicon.load(path / KEYWORDS, remedy=REMEDY), ProductKeywords(path / TABLE))
    try:
        rows = found.products.rows
        fits = (rows.dtype, rows.shape) == (np.int16, (manifest["products"]["count"], PRODUCT_KEYWORDS))
    except ValueError:
        fits = False
    if not fits:
        raise MaxsearchError(f"the keywords file {path / TABLE} holds no row for each product: {REMEDY}")
    return found


def _tokens(path: Path, manifest: dict[str, Any], verify: bool) -> TokenTable | None:
    entry = manifest.get(TOKENS)
    if entry is None:
        return None
    for file in entry["files"]:
        _checked(path, file, verify, what="token file")
    found = TokenTable(path, entry["tokenizer"])
    if not found.fits(manifest["products"]["count"], manifest["interactions"]["count"]):
        raise MaxsearchError(f"the token table {path / TOKENS} is not one of the data beside it: {REMEDY}")
    return found


def _checked(path: Path, entry: dict[str, Any], verify: bool, *, what: str) -> Path:
    file = path / entry["name"]
    if not file.is_file():
        raise MaxsearchError(f"the {what} {file} is missing: {REMEDY}")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise MaxsearchError(
            f"the {what} {file} has {size:,} bytes where its manifest says {entry['bytes']:,}: {REMEDY}"
        )
    if verify and sha256_of(file) != entry["sha256"]:
        raise MaxsearchError(f"the {what} {file} differs from its checksum in the manifest: {REMEDY}")
    return file

"""What the manifest of prepared data says, and which files of a folder it accounts for."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxsearch.data.dataset import KIND, SPLITS_KIND
from maxsearch.data.judgment_files import JUDGMENTS
from maxsearch.data.records import SCHEMA_VERSION
from maxsearch.data.screening import SUSPECTS
from maxsearch.data.tokens.table import TOKENIZER, TOKENS
from maxsearch.errors import UsageError
from maxsearch.manifest import MANIFEST, created_by
from maxsearch.prepare.rejections import REJECTED

SPLITS_VERSION = 1
NO_KEYWORDS: dict[str, Any] = {"count": 0, "files": []}


@dataclass(frozen=True)
class Contents:
    """What a runner has written to one folder of prepared data.

    Attributes:
      products: the account of the product shards, as `write_shards` gives it.
      interactions: that of the interaction shards.
      queries: distinct queries.
      total_weight: the exactly rounded sum of the interactions' weights.
      keywords: {"count", "files"}.
      attributes: names of the products' attributes, sorted.
      rows: the row of each product in the products file, by position; needed for a screening only, else empty.
      more: further entries, such as of judgments.
    """

    products: dict[str, Any]
    interactions: dict[str, Any]
    queries: int
    total_weight: float
    keywords: dict[str, Any]
    attributes: Sequence[str]
    rows: Sequence[int] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def manifest_of(contents: Contents, image_edge: int) -> dict[str, Any]:
    """The manifest of a folder of prepared data.

    Args:
      contents: what stands in it.
      image_edge: what pictures were shrunk to, in pixels.
    """
    files = [*contents.products["shards"], *contents.interactions["shards"], *contents.keywords["files"]]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "created_by": created_by(),
        "products": contents.products,
        "interactions": {
            **contents.interactions,
            "queries": contents.queries,
            "total_weight": contents.total_weight,
        },
        "keywords": contents.keywords,
        "image_edge": image_edge,
        "attributes": list(contents.attributes),
        "fingerprint": _fingerprint(file["sha256"] for file in files),
        **contents.more,
    }


def splits_manifest(parts: Mapping[str, Mapping[str, Any]], shares: Mapping[str, float]) -> dict[str, Any]:
    """The manifest of a folder with a folder of prepared data per part.

    Args:
      parts: their manifests.
      shares: of the held-out parts.
    """
    return {
        "schema_version": SPLITS_VERSION,
        "kind": SPLITS_KIND,
        "created_by": created_by(),
        "splits": dict(shares),
        "parts": {
            part: {
                "fingerprint": manifest["fingerprint"],
                "products": manifest["products"]["count"],
                "interactions": manifest["interactions"]["count"],
                "judgments": manifest.get("judgments", {}),
            }
            for part, manifest in parts.items()
        },
        "fingerprint": _fingerprint(manifest["fingerprint"] for manifest in parts.values()),
        **{name: manifest[name] for manifest in parts.values() for name in ("screening",) if name in manifest},
    }


def check_replaceable(out: Path) -> None:
    """Refuses to replace a folder that holds anything but prepared data.

    Raises:
      UsageError: it does, or is a file.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    foreign = _foreign(out)
    if foreign:
        raise UsageError(
            f"--out {out} holds files that maxsearch prepare did not write, such as {min(foreign)}: "
            "give a new or empty folder, or one of prepared data"
        )


def _foreign(folder: Path) -> set[str]:
    """Names in a folder that no manifest of ours accounts for."""
    names = {path.name for path in folder.iterdir()}
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["kind"] == SPLITS_KIND:
            held = {part: _foreign(folder / part) for part in manifest["parts"] if part in names}
            return (names - {MANIFEST, REJECTED, *held}) | {f"{part}/{name}" for part in held for name in held[part]}
        if manifest["kind"] != KIND:
            return names
        shards = [shard["name"] for part in ("products", "interactions") for shard in manifest[part]["shards"]]
        keywords = [file["name"] for file in manifest.get("keywords", {}).get("files", ())]
        tokens = [TOKENS, TOKENIZER] if TOKENS in manifest else []
    except (OSError, ValueError, KeyError, TypeError):
        return names
    return names - {MANIFEST, REJECTED, SUSPECTS, JUDGMENTS, *shards, *keywords, *tokens}


def _fingerprint(checksums: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(checksums).encode()).hexdigest()

"""The manifest of a folder that maxsearch writes: its kind, schema version, and every file with size and checksum."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from maxsearch import __version__
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import read_json, sha256_of, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FolderKind:
    """One kind of folder.

    Attributes:
      name: the manifest's `kind`.
      what: the folder in a word, for messages.
      schema_version: the version this code writes and reads.
      remedy: what a user does when the folder is absent or broken.
      required: files without which the folder is of no use.
      fields: the manifest's further keys and their types.
    """

    name: str
    what: str
    schema_version: int
    remedy: str
    required: tuple[str, ...]
    fields: Mapping[str, type]


def created_by() -> str:
    """The program and its version, as manifests record it."""
    return f"maxsearch {__version__}"


def write_manifest(folder: Path, kind: FolderKind, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Flushes every file below `folder` to disk, then writes the manifest that lists them.

    Args:
      folder: the folder; everything but the manifest stands in it.
      kind: its kind.
      fields: the manifest's further keys.

    Returns:
      The manifest.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = {
        "kind": kind.name,
        "schema_version": kind.schema_version,
        "created_by": created_by(),
        "files": files,
        **fields,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path, kind: FolderKind, *, checksums: bool = True) -> dict[str, Any]:
    """Reads a folder's manifest and checks the folder against it.

    Args:
      folder: the folder.
      kind: what it must be.
      checksums: also read every file and compare its SHA-256; without it, only presence and size are checked.

    Raises:
      MaxsearchError: the folder is absent, of another kind or schema version, or a file is missing or altered.
    """
    if not folder.is_dir():
        raise MaxsearchError(f"no {kind.what} folder at {folder}: {kind.remedy}")
    if not (folder / MANIFEST).is_file():
        raise MaxsearchError(f"{folder} is not a maxsearch {kind.what} folder (it has no {MANIFEST}): {kind.remedy}")
    manifest = read_json(folder / MANIFEST, what=f"{kind.what} manifest", remedy=kind.remedy)
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != kind.name:
        raise MaxsearchError(
            f"{folder} is not a maxsearch {kind.what} folder (its manifest's kind is {found!r}, not {kind.name!r}): "
            f"{kind.remedy}"
        )
    if manifest.get("schema_version") != kind.schema_version:
        raise MaxsearchError(
            f"the {kind.what} {folder} has schema version {manifest.get('schema_version')!r} (written by "
            f"{manifest.get('created_by')}) and this maxsearch reads version {kind.schema_version}: {kind.remedy}"
        )
    _check_fields(folder, kind, manifest)
    for name, entry in manifest["files"].items():
        _check_file(folder, kind, name, entry, checksums=checksums)
    return manifest


def require_replaceable(path: Path, kinds: Iterable[FolderKind], *, flag: str = "--out") -> None:
    """Refuses to write a folder over something else.

    Args:
      path: where a folder is about to be put in place.
      kinds: the kinds that may be replaced.
      flag: the flag that named the path, for the message.

    Raises:
      UsageError: a file, or a folder with other content, stands there.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    kinds = tuple(kinds)
    if path.is_dir() and (path / MANIFEST).is_file():
        manifest = read_json(path / MANIFEST, what="manifest", remedy=f"pass another folder to {flag}")
        if isinstance(manifest, dict) and manifest.get("kind") in {kind.name for kind in kinds}:
            return
    what = " or ".join(kind.what for kind in kinds)
    raise UsageError(f"{path} exists and is not a maxsearch {what} folder: pass another folder to {flag}, or remove it")


def _check_fields(folder: Path, kind: FolderKind, manifest: Mapping[str, Any]) -> None:
    for name, expected in {"files": dict, **kind.fields}.items():
        if not isinstance(manifest.get(name), expected):
            raise MaxsearchError(
                f"the manifest {folder / MANIFEST} has no {name!r} of type {expected.__name__}, so it was altered: "
                f"{kind.remedy}"
            )
    for name in kind.required:
        if name not in manifest["files"]:
            raise MaxsearchError(
                f"the manifest {folder / MANIFEST} does not list {name}, so it was altered: {kind.remedy}"
            )


def _check_file(folder: Path, kind: FolderKind, name: str, entry: Any, *, checksums: bool) -> None:
    path = folder / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not isinstance(entry, dict):
        raise MaxsearchError(
            f"the manifest {folder / MANIFEST} has a bad entry for {name!r}, so it was altered: {kind.remedy}"
        )
    if not path.is_file():
        raise MaxsearchError(f"{path} is missing, though the {kind.what} manifest lists it: {kind.remedy}")
    size = path.stat().st_size
    if size != entry.get("bytes"):
        raise MaxsearchError(
            f"{path} holds {size} bytes where the {kind.what} manifest says {entry.get('bytes')!r}, "
            f"so it was cut short or altered: {kind.remedy}"
        )
    if checksums and sha256_of(path) != entry.get("sha256"):
        raise MaxsearchError(f"{path} was altered (its SHA-256 is not the {kind.what} manifest's): {kind.remedy}")

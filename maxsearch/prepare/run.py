"""The front door of preparation: checks, one runner, and a folder that appears whole or not at all."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from maxsearch.data.layouts.layout import write_judgments
from maxsearch.data.tables.remote import is_url
from maxsearch.data.tokens.table import TOKENS
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import directory_in_place, write_json
from maxsearch.manifest import MANIFEST
from maxsearch.prepare.embedded.run import run as run_embedded
from maxsearch.prepare.manifest import Contents, check_replaceable, manifest_of, splits_manifest
from maxsearch.prepare.options import PrepareOptions, checked, part_folder
from maxsearch.prepare.rejections import REJECTED, Rejections
from maxsearch.prepare.splits import TRAIN
from maxsearch.prepare.store import dataset_at
from maxsearch.progress import Progress

__all__ = ["PrepareOptions", "prepare"]


Runner = Callable[[PrepareOptions, Path, Rejections, Progress | None], dict[str, Contents]]
"""Writes everything but rejections and manifests: `embedded.run.run`, and `beam.runner.run`."""


def prepare(options: PrepareOptions, progress: Progress | None = None, runner: Runner = run_embedded) -> dict[str, Any]:
    """Writes products, interactions, keywords, rejected rows and a manifest to `options.out`.

    With splits, each part is a folder in it, with a manifest of its own.

    The folder appears whole, with the manifest, or not at all; equal input gives equal bytes. Where too many rows are
    rejected they are left in OUT.rejected.jsonl, beside the folder.

    Returns:
      The manifest.

    Raises:
      UsageError: an option or a column cannot be used, or `out` holds other files.
      MaxsearchError: a file cannot be read or written, too many rows are rejected, or none is left.
    """
    if isinstance(options.out, str) and is_url(options.out):
        return _prepare_remotely(options.out, checked(options), progress, runner)
    out = Path(options.out).resolve()
    options = checked(options)
    check_replaceable(out)
    aside = out.with_name(f"{out.name}.{REJECTED}")
    try:
        with directory_in_place(out) as draft:
            manifest = _fill(draft, options, aside, progress, runner)
            write_json(draft / MANIFEST, manifest)
        aside.unlink(missing_ok=True)  # an earlier run on worse files may have left it
    except OSError as error:
        raise MaxsearchError(
            f"cannot write {error.filename or out} ({error.strerror or error}): make room or choose another --out"
        ) from None
    return manifest


def _prepare_remotely(url: str, options: PrepareOptions, progress: Progress | None, runner: Runner) -> dict[str, Any]:
    """As `prepare`, to a folder of an object store; the rejected rows of a failure go to the current folder."""
    for flag, asked in (("--screen", options.screening), ("--tokenizer", options.tokenizer)):
        if asked is not None:
            raise UsageError(f"{flag} reads the written shards again, which --out {url} has not on disk: give a folder")
    aside = Path.cwd() / f"{PurePosixPath(url).name}.{REJECTED}"
    with dataset_at(url) as draft:
        manifest = _fill(draft, options, aside, progress, runner)
        write_json(draft / MANIFEST, manifest)
    aside.unlink(missing_ok=True)
    return manifest


def _fill(
    draft: Path, options: PrepareOptions, aside: Path, progress: Progress | None, runner: Runner
) -> dict[str, Any]:
    """Writes everything but the folder's manifest, which it returns."""
    with (draft / REJECTED).open("w", encoding="utf-8", newline="\n") as stream:
        rejections = Rejections(stream, aside, options.max_bad_fraction)
        parts = runner(options, draft, rejections, progress)
        stream.flush()
        os.fsync(stream.fileno())
    training = _finished(part_folder(draft, TRAIN, options), parts[TRAIN], options, progress)
    manifests = {
        part: manifest_of(contents, options.image_edge) for part, contents in {**parts, TRAIN: training}.items()
    }
    if options.splits is None:
        return {**manifests[TRAIN], "rejected": rejections.summary()}
    for part, manifest in manifests.items():
        write_json(part_folder(draft, part, options) / MANIFEST, manifest)
    return {**splits_manifest(manifests, options.splits.shares), "rejected": rejections.summary()}


def _finished(folder: Path, contents: Contents, options: PrepareOptions, progress: Progress | None) -> Contents:
    """Screens and tokenises the training part and adds the source's judgments, where that is asked for."""
    more: dict[str, Any] = {}
    products = contents.products
    if options.screening is not None:
        products, more["screening"] = options.screening.apply(
            folder, products, contents.rows, options.shard_records, progress
        )
    if options.tokenizer is not None:
        more[TOKENS] = options.tokenizer.apply(folder, products, contents.interactions, progress)
    if options.judgments is not None and options.splits is None:
        more["judgments"] = write_judgments(folder, options.judgments())
    return replace(contents, products=products, more={**contents.more, **more})

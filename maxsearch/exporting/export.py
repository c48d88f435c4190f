"""Writes a trained model as plain files and programs, and proves that they give the same vectors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.data.keywords import KEYWORDS
from maxsearch.errors import MaxsearchError
from maxsearch.exporting.probes import (
    Vectors,
    cosines,
    difference,
    probe_vectors,
    read_probe_vectors,
    write_probes,
)
from maxsearch.files import directory_in_place, write_json
from maxsearch.manifest import require_replaceable, write_manifest
from maxsearch.model_files import (
    CONFIG,
    MODEL,
    TOKENIZER,
    flatten_params,
    unflatten_params,
    verify_model,
    write_weights,
)
from maxsearch.program_files import INPUTS, read_inputs
from maxsearch.serving.encoder import EmbeddingModel, ExportableModel
from maxsearch.serving.program import ExportedEncoder
from maxsearch.weight_formats import WeightFormat, packed, unpacked

TOLERANCE = 1e-6
PROGRAM_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03}
"""By the dtype of the computation: a program's sums run in another order, and each rounds."""

Reload = Callable[[Path], EmbeddingModel]


def export(
    encoder: ExportableModel,
    out: Path,
    *,
    reload: Reload,
    write_programs: Callable[[Any, Path], None] | None = None,
    step: int | None = None,
    weights: WeightFormat = "float32",
) -> dict[str, Any]:
    """Writes a model folder: weights (safetensors), config, tokenizer, keywords, programs, probes, and a manifest.

    The folder is put in place only after the model read back from it, and its programs, give the encoder's vectors;
    with rounded weights, those of the encoder that has the rounded weights, which is a model of its own.

    Args:
      encoder: the model.
      out: the folder; an older model folder there is replaced.
      reload: reads a model folder (`Encoder.from_model`).
      write_programs: writes the encoder's programs into a folder; None leaves them out.
      step: the training step that the parameters come from, for the manifest.
      weights: how matrices are stored.

    Returns:
      The manifest; `cosine` has the mean and least cosine of rounded vectors with the encoder's own.

    Raises:
      UsageError: something other than a model folder stands at `out`.
      MaxsearchError: a parameter or vector is not finite, or what is read back differs.
    """
    require_replaceable(out, [MODEL])
    _require_finite_params(encoder.params)
    stored = encoder
    if weights != "float32":
        flat = unpacked(packed(flatten_params(encoder.params), weights), weights)
        stored = encoder.with_params(unflatten_params(flat))
    vectors = probe_vectors(stored)
    fields: dict[str, Any] = {"fingerprint": stored.fingerprint, "step": step, "weights": weights}
    if stored is not encoder:
        fields |= {"rounded_from": encoder.fingerprint, "cosine": cosines(probe_vectors(encoder), vectors)}
    with directory_in_place(out) as draft:
        write_weights(draft, encoder.params, weights)
        write_json(draft / CONFIG, encoder.config.to_json())
        encoder.tokenizer.save_pretrained(draft / TOKENIZER)
        if encoder.lexicon is not None:
            encoder.lexicon.save(draft / KEYWORDS)
        write_probes(draft, vectors)
        if write_programs is not None:
            write_programs(stored, draft)
        manifest = write_manifest(draft, MODEL, fields)
        remedy = f"nothing was written to {out}; export with the version of maxsearch that trained the run"
        _require_agreement(draft, manifest, vectors, reload, TOLERANCE, remedy)
    return manifest


def verify(folder: Path, *, reload: Reload) -> dict[str, Any]:
    """Checks an exported folder again: every file's checksum, and that model and programs still give its vectors.

    Args:
      folder: what `export` wrote.
      reload: reads a model folder (`Encoder.from_model`).

    Returns:
      The manifest.

    Raises:
      MaxsearchError: a file is missing or altered, or vectors differ here.
    """
    manifest = verify_model(folder)
    remedy = "export it again with this version of maxsearch and of its libraries"
    # Another processor sums in another order too.
    tolerance = PROGRAM_TOLERANCE[read_inputs(folder).dtype] if INPUTS in manifest["files"] else TOLERANCE
    _require_agreement(folder, manifest, read_probe_vectors(folder), reload, tolerance, remedy)
    return manifest


def _require_finite_params(params: Mapping[str, Any]) -> None:
    for name, value in flatten_params(params).items():
        if not np.isfinite(value).all():
            raise MaxsearchError(
                f"parameter {name} holds a value that is not finite, so the run cannot be exported: "
                "choose an earlier step"
            )


def _require_agreement(
    folder: Path, manifest: Mapping[str, Any], vectors: Vectors, reload: Reload, tolerance: float, remedy: str
) -> None:
    model = reload(folder)
    if model.fingerprint != manifest["fingerprint"]:
        raise MaxsearchError(
            f"the exported model reads back as model {model.fingerprint[:12]}, "
            f"not {manifest['fingerprint'][:12]}: {remedy}"
        )
    _require_same("model does not give the run's", vectors, probe_vectors(model), tolerance, remedy)
    if INPUTS in manifest["files"]:
        programs = ExportedEncoder.load(folder, checksums=False)
        coarser = PROGRAM_TOLERANCE[programs.inputs.dtype]
        _require_same("programs do not give the model's", vectors, probe_vectors(programs), coarser, remedy)


def _require_same(what: str, expected: Vectors, found: Vectors, tolerance: float, remedy: str) -> None:
    differs = difference(expected, found, tolerance)
    if differs is not None:
        raise MaxsearchError(
            f"the exported {what} {differs[0]} vectors (they differ by up to {differs[1]:.2g}): {remedy}"
        )

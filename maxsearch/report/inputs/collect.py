"""Everything that a report is made from, read and checked before the first line is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxsearch.data.dataset import read_manifest
from maxsearch.data.tables.read import Columns
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.report.inputs.ablation import FILE, AblationFile, read_ablation
from maxsearch.report.inputs.evaluation import EvaluationFile, read_evaluation
from maxsearch.report.inputs.run import RunFolder, read_run
from maxsearch.report.inputs.tuning import Tuning, read_tuning
from maxsearch.report.pictures import Pictures, PictureSource, read_pictures
from maxsearch.report.words import without_folders
from maxsearch.training.environment import environment

WORST_SHOWN = 20  # queries of each evaluation
RETURNED_SHOWN, WANTED_SHOWN = 10, 6


@dataclass(frozen=True)
class ReportOptions:
    """What to report on.

    Attributes:
      run: the run's folder.
      evaluations: JSON of `maxsearch evaluate --out` by the name that it gets on the page.
      ablations: folders of `maxsearch ablate --out` by name.
      tuning: JSON of `maxsearch index tune --out`; None for none.
      products, columns, image_dir: the catalogue whose pictures are shown; by default the one that each evaluation
        names, where it still stands.
      data: folders of prepared training data; by default those that the run has noted.
    """

    run: Path
    evaluations: Mapping[str, Path] = field(default_factory=dict)
    ablations: Mapping[str, Path] = field(default_factory=dict)
    tuning: Path | None = None
    products: Path | None = None
    columns: Columns = field(default_factory=dict)
    image_dir: Path | None = None
    data: Sequence[Path] = ()


@dataclass(frozen=True)
class Inputs:
    """What a report is made from.

    Attributes:
      run: the run.
      evaluations, ablations: in the order in which they were given.
      tuning: of an index; None when there is none.
      pictures: of the products that each evaluation names, by its name.
      manifests: of the training data by the folder's name.
      no_manifest: why there are none, in a sentence.
      here: on what the report itself was made.
    """

    run: RunFolder
    evaluations: Sequence[EvaluationFile]
    ablations: Sequence[AblationFile]
    tuning: Tuning | None
    pictures: Mapping[str, Pictures]
    manifests: Mapping[str, dict[str, Any]]
    no_manifest: str
    here: dict[str, Any]


def collect(options: ReportOptions) -> Inputs:
    """Reads all that the options name.

    Raises:
      UsageError, MaxsearchError: a file is absent, damaged, or of another version.
    """
    run = read_run(options.run)
    evaluations = [read_evaluation(path, name) for name, path in options.evaluations.items()]
    ablations = [read_ablation(path, name) for name, path in options.ablations.items()]
    tuning = read_tuning(options.tuning) if options.tuning is not None else None
    manifests, missing = _manifests(options.data, run, evaluations)
    return Inputs(
        run=run,
        evaluations=evaluations,
        ablations=ablations,
        tuning=tuning,
        pictures=_pictures(options, evaluations),
        manifests=manifests,
        no_manifest=missing,
        here=environment(),
    )


def named_paths(words: Sequence[str], flag: str) -> dict[str, Path]:
    """Files by name, of flags such as NAME=FILE; one without a name is called like the file, or its folder.

    Raises:
      UsageError: a name comes twice.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, separator, rest = word.partition("=")
        if not separator or Path(word).exists():
            path = Path(word)
            name = path.resolve().parent.name if path.name == FILE else path.resolve().stem
        elif not (name and rest):
            raise UsageError(f"{flag} {word!r} is not of the form NAME=PATH: write for example full={rest or 'PATH'}")
        else:
            path = Path(rest)
        if name in found:
            raise UsageError(f"{flag} gives the name {name!r} twice: tell them apart as NAME=PATH")
        found[name] = path
    return found


def _manifests(
    given: Sequence[Path], run: RunFolder, evaluations: Sequence[EvaluationFile]
) -> tuple[dict[str, dict[str, Any]], str]:
    if given:
        return {path.resolve().name: read_manifest(path) for path in given}, ""
    # An older run has noted nothing; its evaluation may have been told.
    words = run.data or [train for one in evaluations[:1] if (train := one.setting("train", str))]
    if not words:
        return {}, "This run does not say on which data it trained: give the folder with --data DATA."
    paths = [word if Path(word).exists() else word.partition("=")[2] or word for word in words]
    if any(path.startswith("tfds:") for path in paths):
        return {}, f"Trained on {', '.join(paths)} of TFDS, which has no manifest."
    gone = [Path(path).name for path in paths if not Path(path).is_dir()]
    if gone:
        return (
            {},
            f"The training data {', '.join(gone)} are no longer where they were: give the folder with --data DATA.",
        )
    try:
        return {Path(path).resolve().name: read_manifest(Path(path)) for path in paths}, ""
    except MaxsearchError as error:
        return {}, f"The training data cannot be read: {without_folders(str(error))}."


def _pictures(options: ReportOptions, evaluations: Sequence[EvaluationFile]) -> dict[str, Pictures]:
    found: dict[str, Pictures] = {}
    together: dict[Any, tuple[PictureSource, set[str], list[str]]] = {}
    for one in evaluations:
        wanted, source = _named(one), _source(options, one)
        if not wanted or isinstance(source, str):
            found[one.name] = Pictures(absent=source if wanted and isinstance(source, str) else "")
            continue
        _, products, names = together.setdefault(_key(source), (source, set(), []))
        products.update(wanted)
        names.append(one.name)
    for source, products, names in together.values():
        found |= dict.fromkeys(names, _read(source, products, given=options.products is not None))
    return found


def _read(source: PictureSource, wanted: set[str], *, given: bool) -> Pictures:
    try:
        return read_pictures(source, wanted)
    except MaxsearchError as error:
        if given:
            raise
        return Pictures(absent=f"The pictures are left out: {without_folders(str(error))}.")


def _named(one: EvaluationFile) -> set[str]:
    shown = one.worst[:WORST_SHOWN]
    returned = {product.product_id for query in shown for product in query.returned[:RETURNED_SHOWN]}
    return returned | {product.product_id for query in shown for product in query.wanted[:WANTED_SHOWN]}


def _source(options: ReportOptions, one: EvaluationFile) -> PictureSource | str:
    """Where an evaluation's pictures are, or why they are left out."""
    noted, folder = one.setting("products", str), one.setting("image_dir", str)
    columns = options.columns or _columns(one.setting("columns", dict))
    image_dir = options.image_dir or (Path(folder) if folder else None)
    if options.products is not None:
        return PictureSource(options.products, columns, image_dir)
    if noted is None:
        return (
            "The pictures are left out, for the evaluation does not name its catalogue: give it with --products FILE."
        )
    if "://" not in noted and not Path(noted).exists():
        return (
            f"The pictures are left out, for the catalogue {Path(noted).name} is no longer where it was: give it with "
            "--products FILE (--map and --image-dir as for evaluate)."
        )
    return PictureSource(Path(noted), columns, image_dir)


def _columns(noted: dict[str, Any] | None) -> dict[str, str | tuple[str, ...]]:
    columns: dict[str, str | tuple[str, ...]] = {}
    for name, value in (noted or {}).items():
        if isinstance(value, str):
            columns[name] = value
        elif isinstance(value, list) and all(isinstance(part, str) for part in value):
            columns[name] = tuple(value)
    return columns


def _key(source: PictureSource) -> tuple[str, str, str]:
    """Equal for sources of the same pictures, whatever the titles' column is."""
    pictures = [source.columns.get(name) for name in ("product_id", "image")]
    return str(source.path), repr(pictures), str(source.image_dir)

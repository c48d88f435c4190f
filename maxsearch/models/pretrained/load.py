"""The first parameters of a run's pretrained towers, and a report of what came from where."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.config import Config, ImageConfig, TextConfig
from maxsearch.errors import MaxsearchError
from maxsearch.files import write_json
from maxsearch.models.pretrained.architecture import TOWERS
from maxsearch.models.pretrained.layouts import IMAGE, OPEN_CLIP_IMAGE, OPEN_CLIP_TEXT, TEXT, Layout
from maxsearch.models.pretrained.resize import resized_grid, resized_text
from maxsearch.models.pretrained.source import Source, find_source
from maxsearch.models.pretrained.transforms import Part, to_ours

REPORT = "pretrained.json"
NAMED = 3  # names in a line of the report

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class TowerReport:
    """What one tower took from its source.

    Attributes:
      tower: query, title or image.
      source: as the user named it.
      loaded: our parameters that came from it.
      resized: those of them whose places were resized, with both sizes.
      skipped: its arrays that this tower has no use for.
      initialised: our parameters of the tower and its projection that it does not have.
    """

    tower: str
    source: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.tower} begins with {self.source}: {len(self.loaded)} parameters loaded"
        if self.resized:
            said += f" ({', '.join(self.resized)})"
        for what, names in (("skipped", self.skipped), ("initialised", self.initialised)):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                said += f", {len(names)} {what} ({', '.join(names[:NAMED])}{more})"
        return said


def load_towers(config: Config, shapes: Shapes) -> tuple[dict[str, np.ndarray], list[TowerReport]]:
    """The parameters that the sources of a config's towers give, by their paths in the model.

    Args:
      config: with the architecture of every pretrained tower.
      shapes: of all parameters of the model by their paths.

    Returns:
      The arrays in float32, and what became of each tower.

    Raises:
      UsageError: a source cannot be had.
      MaxsearchError: a file is damaged, lacks an array or has one of another shape.
    """
    arrays: dict[str, np.ndarray] = {}
    reports = []
    for name in TOWERS:
        tower = getattr(config.model, name)
        if tower.source is None:
            continue
        source, report = find_source(tower.pretrained), TowerReport(name, tower.pretrained)
        layout = layout_of(source, tower)
        prefix = source.prefix(layout.anchor)
        if prefix is None:
            raise MaxsearchError(f"{tower.pretrained} holds no array {layout.anchor}, so no {name} tower")
        root = f"{name}_encoder"
        parts = [part for part in layout.parts(tower.depth) if f"{root}/{part.ours}" in shapes]
        named = {part: tuple(prefix + theirs for theirs in part.theirs) for part in parts}
        used = {theirs for names in named.values() for theirs in names}
        for part, value in read(source, named, tower.heads):
            path = f"{root}/{part.ours}"
            arrays[path] = fitted(value, shapes[path], tower, path, report)
            report.loaded.append(path)
        used |= project(source, layout, tower, name, shapes, arrays, report)
        report.skipped = sorted(source.places.keys() - used)
        own = [path for path in shapes if path.startswith((f"{root}/", f"{name}_project/"))]
        report.initialised = sorted(set(own) - arrays.keys())
        reports.append(report)
    return arrays, reports


def layout_of(source: Source, tower: TextConfig | ImageConfig) -> Layout:
    """The names in a source's files."""
    text = isinstance(tower, TextConfig)
    if source.open_clip:
        return OPEN_CLIP_TEXT if text else OPEN_CLIP_IMAGE
    assert tower.source is not None
    return (TEXT if text else IMAGE)[tower.source.family]


def read(source: Source, named: Mapping[Part, tuple[str, ...]], heads: int) -> Iterable[tuple[Part, np.ndarray]]:
    """Our arrays of a source's, one part at a time.

    Raises:
      MaxsearchError: an array is not there, or of another shape.
    """
    for part, names in named.items():
        for name in names:
            if name not in source.places:
                raise MaxsearchError(f"{source.name} holds no array {name}, which its config asks for")
        found = dict(source.arrays(names))
        try:
            yield part, to_ours(part.kind, [found[name] for name in names], heads)
        except ValueError:
            shapes = ", ".join(str(found[name].shape) for name in names)
            raise MaxsearchError(f"{source.name}: {names[0]} has the shape {shapes}, not that of its config") from None


def fitted(
    value: np.ndarray, shape: tuple[int, ...], tower: TextConfig | ImageConfig, path: str, report: TowerReport
) -> np.ndarray:
    """An array in the shape that it has here: positions are resized.

    Raises:
      MaxsearchError: anything else differs.
    """
    if path.endswith("/position") and value.ndim == 2 and value.shape != shape and value.shape[1] == shape[1]:
        if isinstance(tower, ImageConfig):
            rows, columns = tower.grid
            value = resized_grid(value, tower.grid, shape[0] - rows * columns, tower.pretrained)
            report.resized.append(f"positions resized to {rows} x {columns}")
        else:
            report.resized.append(f"positions resized from {len(value)} to {shape[0]}")
            value = resized_text(value, shape[0])
    if value.shape != shape:
        raise MaxsearchError(
            f"{tower.pretrained}: the array for {path} has the shape {value.shape} and the model {shape}: its config "
            "and its weights do not belong together"
        )
    return np.ascontiguousarray(value, np.float32)


def project(
    source: Source,
    layout: Layout,
    tower: TextConfig | ImageConfig,
    name: str,
    shapes: Shapes,
    arrays: dict[str, np.ndarray],
    report: TowerReport,
) -> set[str]:
    """Fills in the map to the compared vectors: the source's own, or, where it has none, the identity.

    Either only where it fits `model.dim`; else it stays as drawn.

    Returns:
      The names of the source's arrays that it is made of.
    """
    root, used = f"{name}_project", set()
    width, dim = shapes[f"{root}/kernel"]
    assert tower.source is not None
    if tower.source.projection == 0 and width == dim:
        arrays[f"{root}/kernel"], arrays[f"{root}/bias"] = np.eye(dim, dtype=np.float32), np.zeros(dim, np.float32)
        report.loaded.append(f"{root} as the identity")
    elif tower.source.projection == dim:
        arrays[f"{root}/bias"] = np.zeros(dim, np.float32)
        for part in layout.project:
            prefix = source.prefix(part.theirs[0])
            if prefix is None:
                raise MaxsearchError(f"{source.name} holds no array {part.theirs[0]}, which its config asks for")
            named = {part: (prefix + part.theirs[0],)}
            used |= set(named[part])
            for _, value in read(source, named, tower.heads):
                path = f"{root}/{part.ours}"
                arrays[path] = fitted(value, shapes[path], tower, path, report)
                report.loaded.append(path)
    return used


def record_report(run: Path, reports: list[TowerReport]) -> None:
    """Writes RUN/pretrained.json: what each tower took from its source."""
    value: list[dict[str, Any]] = [asdict(report) for report in reports]
    write_json(run / REPORT, {"towers": value})

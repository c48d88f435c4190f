"""What each part of the method is worth: ladders of runs, trained over several seeds and compared in pairs."""

from maxsearch.html.markup import text
from maxsearch.html.words import number, short
from maxsearch.report.charts.forest import Group, Line, figure, forest
from maxsearch.report.inputs.ablation import AblationFile, RungDifference, RungFile, RungMetric
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.sections import part
from maxsearch.report.sections.quality import CERTAIN
from maxsearch.report.words import TITLES, p_said, title_of, without_folders

COMMAND = "maxsearch ablate LADDER --data DATA --products ... --queries ... --qrels ... --out DIR"
NOTHING = "\u2013"


def ablations(inputs: Inputs) -> part.Part:
    """The section."""
    title = "What each part is worth"
    if not inputs.ablations:
        return part.Part("ablations", title, part.missing("No ablation was given:", COMMAND, "--ablation DIR"))
    several = len(inputs.ablations) > 1
    return part.Part("ablations", title, "".join(_ladder(one, several=several) for one in inputs.ablations))


def _ladder(one: AblationFile, *, several: bool) -> str:
    heading = f"<h3>{text(one.name)}</h3>" if several else ""
    found = dict.fromkeys(name for rung in one.rungs for name in rung.metrics)
    metrics = [name for name in TITLES if name in found] + [name for name in found if name not in TITLES]
    if not metrics:
        return heading + '<p class="missing">No rung of this ladder has figures yet.</p>' + _failures(one)
    metric = metrics[0]
    means, steps = [], []
    for rung in one.rungs:
        if (value := rung.metrics.get(metric)) is None:
            continue
        means.append(Line(short(rung.name), value.interval, note=_seeds(rung, value, one)))
        if value.difference is not None:
            name = f"{short(rung.name)}, less {short(rung.against or '')}"
            note = f' <span class="soft">{_chance(value.difference)}</span>'
            steps.append(Line(name, value.difference, 0, note, hollow=_open(value.difference)))
    drawn = f"<div>{forest([Group(means)], f'{title_of(metric)}, mean of seeds')}</div>"
    if steps:
        drawn += f"<div>{forest([Group(steps)], f'{title_of(metric)}, paired difference', signed=True)}</div>"
    corrected = any(
        value.difference is not None and value.difference.p_corrected is not None
        for rung in one.rungs
        if (value := rung.metrics.get(metric)) is not None
    )
    rests = (
        f"{number(one.queries)} queries over {number(one.products)} products, seeds "
        f"{', '.join(map(str, one.seeds))}. Differences are of the same queries and seeds, with paired 95 % bootstrap "
        "intervals over queries; p by a paired randomisation test"
        f"{', corrected for the number of comparisons (Holm)' if corrected else ', not corrected for their number'}. "
        f"An empty mark may be chance{f' (p from {CERTAIN:g})' if corrected else ' (the interval holds 0)'}."
    )
    lines = [(short(rung.name), [cell for name in metrics for cell in _cells(rung, name)]) for rung in one.rungs]
    columns = [cell for name in metrics for cell in (title_of(name), "sd of seeds", "difference", "p")]
    return (
        heading
        + part.said(rests)
        + f'<div class="pair">{drawn}</div>'
        + part.numbers("The ladder in numbers", "rung", [*columns, "minutes"], _with_minutes(one, lines))
        + _failures(one)
    )


def _chance(found: RungDifference) -> str:
    return p_said(found.p if found.p_corrected is None else found.p_corrected)


def _open(found: RungDifference) -> bool:
    """Whether the difference may be chance; without a correction, what the interval leaves open is what counts."""
    return found.low <= 0 <= found.high if found.p_corrected is None else found.p_corrected >= CERTAIN


def _seeds(rung: RungFile, value: RungMetric, one: AblationFile) -> str:
    spread = f"sd {value.sd:.3f}" if value.sd is not None else ""
    partial = "" if rung.complete else f"{len(rung.seeds)} of {len(one.seeds)} seeds"
    said = ", ".join(filter(None, (spread, partial)))
    return f' <span class="soft">{said}</span>' if said else ""


def _cells(rung: RungFile, metric: str) -> list[str]:
    value = rung.metrics.get(metric)
    if value is None:
        return [NOTHING] * 4
    spread = f"{value.sd:.3f}" if value.sd is not None else NOTHING
    found = value.difference
    if found is None:
        return [figure(value.mean), spread, NOTHING, NOTHING]
    ends = f"{figure(found.low, signed=True)} to {figure(found.high, signed=True)}"
    p = _chance(found).removeprefix("p ").removeprefix("= ")
    return [figure(value.mean), spread, f"{figure(found.mean, signed=True)} ({ends})", p]


def _with_minutes(one: AblationFile, lines: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    minutes = [
        f"{sum(rung.training_minutes) / len(rung.training_minutes):.1f}" if rung.training_minutes else NOTHING
        for rung in one.rungs
    ]
    return [(name, [*cells, value]) for (name, cells), value in zip(lines, minutes, strict=True)]


def _failures(one: AblationFile) -> str:
    items = "".join(f"<li>{text(run)} failed: {text(without_folders(why))}</li>" for run, why in one.failed.items())
    return f'<ul class="missing">{items}</ul>' if items else ""

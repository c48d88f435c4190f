"""What a reader with one minute sees: doubts first, then the figures that count."""

from datetime import UTC, datetime

from maxsearch.evaluation.embedded import TEXT_ONLY
from maxsearch.html.markup import text
from maxsearch.html.words import number, percent
from maxsearch.report.charts.forest import figure
from maxsearch.report.charts.scale import short_number
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.inputs.evaluation import EvaluationFile
from maxsearch.report.sections.part import Part
from maxsearch.report.sections.slices import FEW
from maxsearch.report.words import (
    duration,
    headline,
    image_gain,
    is_clear,
    is_ours,
    p_said,
    slice_name,
    title_of,
    without_folders,
)
from maxsearch.training.goodput import STEPS

CHANCE = "random"


def warnings(inputs: Inputs) -> str:
    """The box of everything that makes the figures doubtful; empty when there is nothing."""
    lines = [
        (one.name if len(inputs.evaluations) > 1 else "", without_folders(caution.message))
        for one in inputs.evaluations
        for caution in one.warnings
    ]
    models = {one.settings.get("model_fingerprint") for one in inputs.evaluations} - {None}
    if len(models) > 1:
        lines.append(("", "The evaluations are of different models, and one at most is the run described here."))
    lines += [
        (one.name, f"{system.name} ranks nothing for {number(system.missing_queries)} queries; they score 0.")
        for one in inputs.evaluations
        for system in one.systems
        if system.missing_queries
    ]
    if not lines:
        return ""
    items = "".join(f"<li>{f'<b>{text(name)}</b>: ' if name else ''}{text(message)}</li>" for name, message in lines)
    return f'<aside class="warning"><h2>Read this first</h2><ul>{items}</ul></aside>'


def glance(inputs: Inputs) -> Part:
    """The tiles."""
    tiles = [tile for one in inputs.evaluations for tile in _evaluated(one, several=len(inputs.evaluations) > 1)]
    run = inputs.run
    trained = f"{number(run.steps)} steps" if run.steps else "no step logged"
    more = [f"batches of {number(run.config.data.batch_size)}"]
    more += [duration(run.seconds)] if run.seconds else []
    more += [f"goodput {percent(run.shares[STEPS])}"] if STEPS in run.shares else []
    tiles.append(_tile("training", trained, ", ".join(more)))
    tiles.append(_tile("model", f"{short_number(run.parameters)} parameters", f"vectors of {run.config.model.dim}"))
    products = [one["products"]["count"] for one in inputs.manifests.values()]
    clicks = [one["interactions"]["count"] for one in inputs.manifests.values()]
    if products:
        said = f"{number(sum(clicks))} pairs of query and product"
        tiles.append(_tile("trained on", f"{number(sum(products))} products", said))
    when = ""
    if run.began is not None:
        day = datetime.fromtimestamp(run.began, UTC).date().isoformat()
        when = f'<p class="soft">Run {text(run.name)}, preset {text(run.config.name)}, begun on {day}.</p>'
    return Part("glance", "At a glance", f'{when}<div class="tiles">{"".join(tiles)}</div>')


def _evaluated(one: EvaluationFile, *, several: bool) -> list[str]:
    main, metric = one.main, headline(one)
    if main is None or metric is None:
        return []
    interval = main.metrics[metric]
    where = f", {one.name}" if several else ""
    others = [
        (found.mean, system.name)
        for system in one.systems
        if not is_ours(system.name) and system.name not in (main.name, CHANCE)
        if (found := system.metrics.get(metric)) is not None
    ]
    tiles = [
        _tile(
            f"{title_of(metric)}{where}",
            figure(interval.mean),
            f"95 % interval {figure(interval.low)} to {figure(interval.high)}"
            + (f"; the best other system, {max(others)[1]}: {figure(max(others)[0])}" if others else ""),
        )
    ]
    adds = one.comparison(TEXT_ONLY, metric)
    if adds is not None:
        tiles.append(
            _tile(
                f"what the image adds{where}",
                figure(-adds.mean, signed=True),
                f"{title_of(metric)}, fused less text only: {figure(-adds.high, signed=True)} to "
                f"{figure(-adds.low, signed=True)}, corrected {p_said(adds.p_corrected)}{_most(one)}",
            )
        )
    return [*tiles, *_weakest(one, main.name, where)]


def _weakest(one: EvaluationFile, model: str, where: str) -> list[str]:
    """The slice with the lowest mean, of those with enough queries to say so."""
    means = [
        (interval.mean, slice_name(found), interval)
        for found in one.slices
        if found.queries >= FEW and (interval := found.systems.get(model)) is not None
    ]
    if not means:
        return []
    mean, name, interval = min(means, key=lambda found: found[0])
    said = f"where {name}; 95 % interval {figure(interval.low)} to {figure(interval.high)}"
    return [_tile(f"weakest slice{where}", figure(mean), said)]


def _most(one: EvaluationFile) -> str:
    """Where the image helps most, of the slices in which that is certain."""
    gains = [(gain.mean, slice_name(found)) for found in one.slices if (gain := image_gain(found)) and is_clear(gain)]
    return f"; most where {max(gains)[1]} ({figure(max(gains)[0], signed=True)})" if gains else ""


def _tile(name: str, value: str, more: str) -> str:
    return (
        f'<div class="tile"><span class="soft">{text(name)}</span><b>{text(value)}</b><span>{text(more)}</span></div>'
    )

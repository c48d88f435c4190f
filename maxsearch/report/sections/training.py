"""How the run trained: losses by name, learning rate, pace, and where the time went."""

from collections.abc import Sequence

import numpy as np

from maxsearch.html.markup import text
from maxsearch.html.words import number, percent
from maxsearch.report.charts.bars import Bar, bars
from maxsearch.report.charts.plane import Curve, Plane, draw
from maxsearch.report.charts.scale import short_number
from maxsearch.report.curves import smoothed, thinned, window_of
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.inputs.run import RunFolder, Series
from maxsearch.report.sections import part
from maxsearch.training.goodput import STEPS

COMMAND = "maxsearch train PRESET --data DATA --run RUN"
LOSS = "loss/"
NAMED = {
    "learning_rate": "learning rate",
    "examples_per_second": "throughput, examples per second",
    "data_wait": "share of the time spent waiting for data",
    "gradient_norm": "gradient norm",
    "logit_scale": "logit scale",
    "padding": "share of padding in the texts",
    "mfu": "model FLOPs utilisation",
    "weight/title": "mean weight of the title",
    "weight/image": "mean weight of the image",
}
RAW = ("learning_rate", "epoch", "seconds")  # not smoothed: they are what they are
LEFT_OUT = ("epoch", "seconds", "stage")
FROM_ZERO = ("learning_rate", "examples_per_second", "data_wait", "padding", "mfu")
REASONS = {STEPS: "steps that count", "start": "starting", "data": "waiting for data", "down": "between processes"}
ROWS = 12  # of a curve's numbers


def training(inputs: Inputs) -> part.Part:
    """The section."""
    title, run = "Training", inputs.run
    drawn = [name for name in _order(run) if len(run.series[name].steps)]
    if not drawn:
        return part.Part("training", title, part.missing("The run has logged no numbers:", COMMAND))
    losses = [name for name in drawn if name == "loss" or name.startswith(LOSS)]
    others = [name for name in drawn if name in NAMED and name not in losses]
    rest = [name for name in drawn if name not in losses and name not in others]
    body = f'<div class="charts">{"".join(_figure(name, run) for name in losses)}</div>'
    body += f'<div class="charts">{"".join(_figure(name, run) for name in others)}</div>'
    body += part.said(_smoothing(run, drawn)) + _dropped(run, drawn) + _numbers(run, [*losses, *others])
    if rest:
        charts = "".join(_figure(name, run) for name in rest)
        body += f'<details><summary>Further numbers</summary><div class="charts">{charts}</div></details>'
    return part.Part("training", title, body + _goodput(run))


def _order(run: RunFolder) -> list[str]:
    first = ["loss", *(name for name in run.series if name.startswith(LOSS)), *NAMED]
    return [name for name in dict.fromkeys([*first, *run.series]) if name in run.series and name not in LEFT_OUT]


def _figure(name: str, run: RunFolder) -> str:
    series = run.series[name]
    window = 1 if name in RAW else window_of(len(series.steps))
    curves = [Curve(*thinned(series.steps, series.values))]
    if window > 1:
        middle = thinned(series.steps, smoothed(series.values, window))
        curves = [Curve(*thinned(series.steps, series.values), faint=True), Curve(*middle)]
    told = _told(name)
    last = float(series.values[-1])
    label = f"{told} by step: from {series.values[0]:.4g} at step {series.steps[0]:,.0f} to {last:.4g} at the end"
    plane = Plane(label, "step", curves, verticals=_stages(run), zero=name in FROM_ZERO)
    return (
        f'<figure><figcaption>{text(told)} <span class="soft">ends at {text(short_number(last))}</span></figcaption>'
        f"{draw(plane)}</figure>"
    )


def _told(name: str) -> str:
    if name == "loss":
        return "loss, weighted sum of all terms"
    return f"loss term {name[len(LOSS) :]}" if name.startswith(LOSS) else NAMED.get(name, name)


def _stages(run: RunFolder) -> list[tuple[float, str]]:
    """Where each stage but the first begins."""
    series = run.series.get("stage")
    if series is None or not len(series.steps):
        return []
    begins = np.flatnonzero(np.diff(series.values)) + 1
    names = [stage.name for stage in run.config.stages]
    return [
        (float(series.steps[at]), names[number - 1] if 0 < number <= len(names) else f"stage {number}")
        for at in begins
        for number in (int(series.values[at]),)
    ]


def _smoothing(run: RunFolder, drawn: Sequence[str]) -> str:
    windows = {window_of(len(run.series[name].steps)) for name in drawn if name not in RAW} - {1}
    if not windows:
        return "Every point is a logged value."
    return (
        f"Pale: the logged values. Strong: their moving mean over {max(windows)} logged values. Long curves are "
        "thinned to the lowest and highest value of each stretch."
    )


def _dropped(run: RunFolder, drawn: Sequence[str]) -> str:
    lost = {name: run.series[name].dropped for name in drawn if run.series[name].dropped}
    if not lost:
        return ""
    said = ", ".join(f"{_told(name)} {number(count)}" for name, count in lost.items())
    return f'<p class="missing">{text(f"Logged values that were no finite number are left out: {said}.")}</p>'


def _numbers(run: RunFolder, names: Sequence[str]) -> str:
    steps = next(run.series[name].steps for name in names) if names else np.zeros(0)
    if not len(steps):
        return ""
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, min(ROWS, len(steps))).astype(int))]
    lines = [(f"{step:,.0f}", [_at(run.series[name], float(step)) for name in names]) for step in chosen]
    return part.numbers("The curves in numbers", "step", [_told(name) for name in names], lines)


def _at(series: Series, step: float) -> str:
    found = np.flatnonzero(series.steps == step)
    return f"{series.values[found[-1]]:.4g}" if len(found) else "\u2013"


def _goodput(run: RunFolder) -> str:
    if not run.shares:
        return ""
    order = sorted(run.shares.items(), key=lambda one: (one[0] != STEPS, -one[1]))
    lines = [Bar(REASONS.get(reason, reason), share, percent(share)) for reason, share in order]
    drawn = bars([("", lines)], ("time spent on", "share of wall time", ""))
    goodput = percent(run.shares.get(STEPS, 0.0))
    return f"<h3>Goodput</h3>{part.said(f'{goodput} of the wall time went into steps that count.')}{drawn}"

"""How much of the exact answer the index finds, and how fast."""

from collections.abc import Sequence

import numpy as np

from maxsearch.html.words import number
from maxsearch.report.charts.plane import Curve, Plane, Point, draw
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.inputs.tuning import Measured, Tuning
from maxsearch.report.sections import part

COMMAND = "maxsearch index tune --index INDEX ... --out tuning.json"
OTHER, FRONT, CHOSEN = 6, 0, 1


def index(inputs: Inputs) -> part.Part:
    """The section."""
    title, tuning = "The index: recall against latency", inputs.tuning
    if tuning is None:
        missing = part.missing("No index tuning was given:", COMMAND, "--tuning tuning.json")
        return part.Part("index", title, missing)
    if not tuning.measured:
        return part.Part("index", title, '<p class="missing">The index tuning has no usable measurement.</p>')
    names = tuning.recalls
    drawn = "".join(_figure(tuning, name) for name in names)
    chosen = next((one for one in tuning.measured if one.chosen), None)
    said = (
        f"{number(tuning.count)} vectors of {number(tuning.dim)} numbers, {number(tuning.queries)} queries. Recall is "
        "the share of the exact search's products that are found; time is of one query alone."
    )
    if chosen is not None:
        recall = chosen.recalls.get(tuning.metric)
        reached = f"{tuning.metric} {recall:.3f}" if recall is not None else "a recall that was not measured"
        said += f" Chosen: {chosen.said}, with {reached} in {chosen.milliseconds:.3g} ms."
        if recall is not None and recall < tuning.target_recall:
            said += f" That is below the target of {tuning.target_recall:g}."
    lines = [
        (
            f"{one.said}{' (chosen)' if one.chosen else ''}",
            [
                *(f"{one.recalls[name]:.3f}" if name in one.recalls else "\u2013" for name in names),
                f"{one.milliseconds:.3g}",
                number(round(one.queries_per_second)) if one.queries_per_second else "\u2013",
            ],
        )
        for one in sorted(tuning.measured, key=lambda one: one.milliseconds)
    ]
    columns = (*names, "ms per query", "queries/s in batches")
    body = part.said(said) + f'<div class="charts">{drawn}</div>'
    return part.Part("index", title, body + part.numbers("All settings in numbers", "setting", columns, lines))


def _figure(tuning: Tuning, name: str) -> str:
    measured = [one for one in tuning.measured if name in one.recalls]
    front = _front(measured, name)
    points = [
        Point(
            one.milliseconds,
            one.recalls[name],
            CHOSEN if one.chosen else FRONT if one in front else OTHER,
            f"{one.said}: {name} {one.recalls[name]:.3f} in {one.milliseconds:.3g} ms",
            "chosen" if one.chosen else "",
        )
        for one in sorted(measured, key=lambda one: one.chosen)
    ]
    curve = Curve(
        np.array([one.milliseconds for one in front]), np.array([one.recalls[name] for one in front]), faint=True
    )
    target = (tuning.target_recall, f"target {tuning.target_recall:g}") if name == tuning.metric else None
    label = f"{name} against milliseconds per query: {len(measured)} settings, the best {front[-1].recalls[name]:.3f}"
    drawn = draw(Plane(label, "ms per query (by powers of ten)", [curve], points, horizontal=target, x_log=True))
    told = f'{name} <span class="soft">circles: no other is faster and better</span>'
    return f"<figure><figcaption>{told}</figcaption>{drawn}</figure>"


def _front(measured: Sequence[Measured], name: str) -> list[Measured]:
    """The settings that no other one beats in both, by time."""
    front: list[Measured] = []
    for one in sorted(measured, key=lambda one: (one.milliseconds, -one.recalls[name])):
        if not front or one.recalls[name] > front[-1].recalls[name]:
            front.append(one)
    return front

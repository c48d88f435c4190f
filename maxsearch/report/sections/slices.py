"""Where the model is strong and where it is weak, and where the image is what helps."""

from maxsearch.evaluation.embedded import TEXT_ONLY
from maxsearch.html.markup import text
from maxsearch.html.words import number, short
from maxsearch.report.charts.bars import Bar, bars
from maxsearch.report.charts.forest import Group, Line, figure, forest
from maxsearch.report.charts.marks import styles_of
from maxsearch.report.charts.scale import Scale
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.inputs.evaluation import EvaluationFile, Slice
from maxsearch.report.sections import part
from maxsearch.report.sections.quality import COMMAND, FLAG, ours_less
from maxsearch.report.words import PARTS, image_gain, is_clear, is_ours, title_of

MOST_VALUES = 12  # of one slice
PRODUCTS = "products"
FEW = 30  # queries; with fewer, an interval says little


def slices(inputs: Inputs) -> part.Part:
    """The section."""
    sliced = [one for one in inputs.evaluations if one.slices]
    if not sliced:
        body = part.missing("No evaluation with slices was given:", COMMAND, FLAG)
        return part.Part("slices", "Where it is strong and weak", body)
    several = len(inputs.evaluations) > 1
    gains = [_gains(one, inputs, several=several) for one in sliced]
    body = ""
    if any(gains):
        body = (
            "<h3>What the image adds</h3>"
            f'<div class="pair">{"".join(f"<div>{drawn}</div>" for drawn in gains if drawn)}</div>'
            + part.said(
                "The model less its own text-only part, query by query, with its 95 % interval; an outlined "
                "bar may be chance. A slice of relevant products asks how well those alone are found."
            )
        )
    body += "".join(_every(one, several=several) for one in sliced)
    return part.Part("slices", "Where it is strong and weak", body)


def _gains(one: EvaluationFile, inputs: Inputs, *, several: bool) -> str:
    groups: list[tuple[str, list[Bar]]] = []
    metric = one.slices[0].metric
    whole = one.comparison(TEXT_ONLY, metric)
    if whole is not None:
        less = ours_less(whole)
        value = figure(less.mean, signed=True)
        clear = less.low > 0 or less.high < 0
        groups.append(("", [Bar("all queries", less.mean, value, open=not clear, interval=(less.low, less.high))]))
    for title, values in _kinds(one):
        lines = [
            Bar(
                short(found.value or "(none)"),
                gain.mean,
                figure(gain.mean, signed=True),
                _count(found),
                open=not is_clear(gain),
                interval=(gain.low, gain.high),
            )
            for found in values
            if (gain := image_gain(found)) is not None
        ]
        if lines:
            groups.append((title, lines[:MOST_VALUES]))
    drawn = bars(groups, ("slice", f"{title_of(metric)}, fused less text only", ""), scale=_common(inputs))
    return f"<h4>{text(one.name)}</h4>{drawn}" if several and drawn else drawn


def _kinds(one: EvaluationFile) -> list[tuple[str, list[Slice]]]:
    """The slices by name, but for those of a single value: they say what the whole says."""
    kinds: dict[str, list[Slice]] = {}
    for found in one.slices:
        name = f"{short(found.slice)}{' (of relevant products)' if found.of == PRODUCTS else ''}"
        kinds.setdefault(name, []).append(found)
    return [(name, values) for name, values in kinds.items() if len(values) > 1]


def _common(inputs: Inputs) -> Scale:
    """One axis for all evaluations, so that their bars compare."""
    gains = [
        end
        for one in inputs.evaluations
        for found in one.slices
        if (gain := image_gain(found))
        for end in (gain.low, gain.high)
    ]
    shown = {one.slices[0].metric for one in inputs.evaluations if one.slices}
    whole = [
        ours_less(found)
        for one in inputs.evaluations
        for found in one.comparisons
        if found.system == TEXT_ONLY and found.metric in shown
    ]
    return Scale.around([*gains, *(end for one in whole for end in (one.low, one.high))], zero=True)


def _every(one: EvaluationFile, *, several: bool) -> str:
    metric = one.slices[0].metric
    inside = {name for found in one.slices for name in found.systems}
    named = list(dict.fromkeys([*(system.name for system in one.systems if system.name in inside), *sorted(inside)]))
    styles = styles_of(named)
    drawn = [name for name in (*PARTS, *named) if name in named]
    drawn = list(dict.fromkeys(name for name in drawn if name in PARTS or name == _strongest(one)))
    heading = f"<h3>{text(title_of(metric))} by slice{f', {text(one.name)}' if several else ''}</h3>"
    charts = ""
    for title, every in _kinds(one):
        groups = [
            Group(
                [Line(short(name), found.systems[name], styles[name]) for name in drawn if name in found.systems],
                f'<b>{text(short(found.value or "(none)"))}</b> <span class="soft">{_count(found)}</span>',
            )
            for found in every[:MOST_VALUES]
        ]
        ends = [interval.high for found in one.slices for name, interval in found.systems.items() if name in drawn]
        scale = Scale.around(ends, zero=True)
        more = len(every) - MOST_VALUES
        left = part.said(f"{number(more)} rarer values stand in the numbers below.") if more > 0 else ""
        charts += f"<div><h4>{text(title)}</h4>{forest(groups, title_of(metric), scale=scale)}{left}</div>"
    lines = [
        (
            f"{found.slice}: {short(found.value or '(none)')}",
            [
                number(found.queries),
                number(found.judgments),
                *(_cell(found, name) for name in named),
            ],
        )
        for found in one.slices
    ]
    columns = ("queries", "judgments", *(short(name) for name in named))
    return f'{heading}<div class="pair">{charts}</div>' + part.numbers("All slices in numbers", "slice", columns, lines)


def _strongest(one: EvaluationFile) -> str | None:
    """The best system that is no part of ours, over all slices."""
    totals: dict[str, float] = {}
    for found in one.slices:
        for name, interval in found.systems.items():
            if not is_ours(name):
                totals[name] = totals.get(name, 0.0) + interval.mean * found.queries
    return max(totals, key=lambda name: totals[name], default=None)


def _cell(found: Slice, name: str) -> str:
    interval = found.systems.get(name)
    return f"{figure(interval.mean)} ({figure(interval.low)} to {figure(interval.high)})" if interval else "\u2013"


def _count(found: Slice) -> str:
    return f"{number(found.queries)} queries{', few' if found.queries < FEW else ''}"

"""How good the ranking is: every system's figures with intervals, and whether the differences may be chance."""

from collections.abc import Sequence

from maxsearch.html.markup import table, text
from maxsearch.html.words import number, short
from maxsearch.report.charts.forest import Group, Line, figure, forest
from maxsearch.report.charts.marks import key, styles_of
from maxsearch.report.charts.scale import Scale
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.inputs.evaluation import Comparison, EvaluationFile
from maxsearch.report.inputs.shapes import Interval
from maxsearch.report.sections import part
from maxsearch.report.words import MEANINGS, headline, metrics_of, p_said, shown, title_of

COMMAND = "maxsearch evaluate --run RUN --products ... --queries ... --qrels ... --out results.json"
FLAG = "--evaluation results.json"
CERTAIN = 0.05
NOTHING = "\u2013"
SENTENCES = {
    "queries_without_judgments": "{} queries are not judged and were left out.",
    "queries_without_relevant_product": "{} queries have no relevant product in the catalogue and were left out.",
    "queries_without_text": "{} queries have no text and were left out.",
    "judged_queries_not_in_queries_file": "{} judged queries are not in the queries file and were left out.",
    "judgments_of_products_not_in_catalogue": "{} judgments of products outside the catalogue do not count.",
}


def quality(inputs: Inputs) -> part.Part:
    """The section."""
    if not inputs.evaluations:
        body = part.missing("No evaluation was given:", COMMAND, FLAG)
        return part.Part("quality", "Retrieval quality", body)
    several = len(inputs.evaluations) > 1
    body = _side_by_side(inputs.evaluations) if several else ""
    body += "".join(_one(one, several=several) for one in inputs.evaluations)
    return part.Part("quality", "Retrieval quality", body + _meanings(inputs.evaluations))


def _one(one: EvaluationFile, *, several: bool) -> str:
    metric = headline(one)
    heading = f"<h3>{text(one.name)}</h3>" if several else ""
    if metric is None:
        return heading + '<p class="missing">This evaluation has no figures.</p>'
    styles = styles_of([system.name for system in one.systems])
    lines = [
        Line(system.name, found, styles[system.name])
        for system in one.systems
        if (found := system.metrics.get(metric)) is not None
    ]
    drawn = forest([Group(lines)], title_of(metric), corner="system", scale=_from_zero(lines))
    compared = _comparisons(one, metric, styles)
    pair = f'<div class="pair"><div>{drawn}</div><div>{compared}</div></div>'
    return heading + _rests_on(one) + pair + _figures(one, styles) + _tests(one)


def _from_zero(lines: Sequence[Line]) -> Scale:
    """From 0 on, so that no difference looks larger than it is."""
    return Scale.around([line.interval.high for line in lines], zero=True)


def _rests_on(one: EvaluationFile) -> str:
    sentences = []
    if one.count("queries_evaluated") and one.count("products"):
        sentences.append(
            f"{number(one.count('queries_evaluated'))} queries over {number(one.count('products'))} products, "
            f"{number(one.count('judgments'))} judgments."
        )
    files = [shown(value) for name in ("products", "queries", "qrels") if (value := one.setting(name, str))]
    columns = one.setting("columns", dict) or {}
    mapped = [f"{field} from the column {shown(column)}" for field, column in columns.items() if field != column]
    if files:
        sentences.append(f"Files: {', '.join(files)}{'; ' if mapped else ''}{', '.join(mapped)}.")
    if isinstance(one.settings.get("gain"), str):
        grade, k = one.settings.get("relevant_grade"), one.settings.get("k")
        sentences.append(f"nDCG gain {one.settings['gain']}; relevant from grade {shown(grade)}; {shown(k)} ranks.")
    left_out = [sentence.format(number(one.count(name))) for name, sentence in SENTENCES.items() if one.count(name)]
    return part.said(" ".join([*sentences, *left_out]))


def _figures(one: EvaluationFile, styles: dict[str, int]) -> str:
    metrics = metrics_of(one.systems)
    best = {
        metric: max((found.mean for system in one.systems if (found := system.metrics.get(metric))), default=None)
        for metric in metrics
    }
    head = "".join(f'<th scope="col">{text(title_of(metric))}</th>' for metric in metrics)
    rows = ""
    for system in one.systems:
        cells = "".join(_cell(system.metrics.get(metric), best[metric]) for metric in metrics)
        rows += f'<tr><th scope="row">{key(styles[system.name])}{text(short(system.name))}</th>{cells}</tr>'
    return (
        f'<div class="wide"><table class="figures"><thead><tr><th scope="col">system</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        + part.said("Below each mean its 95 % bootstrap interval over queries; the best of a column is bold.")
    )


def _cell(found: Interval | None, best: float | None) -> str:
    if found is None:
        return f"<td>{NOTHING}</td>"
    mean = f"<b>{figure(found.mean)}</b>" if found.mean == best else figure(found.mean)
    return f'<td>{mean}<br><span class="soft">{figure(found.low)} to {figure(found.high)}</span></td>'


def _comparisons(one: EvaluationFile, metric: str, styles: dict[str, int]) -> str:
    found = [comparison for comparison in one.comparisons if comparison.metric == metric]
    if not found:
        return part.said("The systems were not compared query by query.")
    lines = [
        Line(
            short(comparison.system),
            ours_less(comparison),
            styles.get(comparison.system, 4),
            f' <span class="soft">{p_said(comparison.p_corrected)}</span>',
            hollow=comparison.p_corrected >= CERTAIN,
        )
        for comparison in found
    ]
    note = (
        f"{found[0].against} less each other system, query by query: right of 0 it is better. p by a paired "
        f"randomisation test, corrected for the number of comparisons (Holm); an empty mark may be chance (p from "
        f"{CERTAIN:g})."
    )
    corner = f"{found[0].against} less"
    return forest([Group(lines)], f"{title_of(metric)}, difference", corner=corner, signed=True) + part.said(note)


def ours_less(one: Comparison) -> Interval:
    """How far ours lies above the other system, where the file says how far that one lies above ours."""
    return Interval(-one.mean, -one.high, -one.low)


def _tests(one: EvaluationFile) -> str:
    if not one.comparisons:
        return ""
    lines = []
    for comparison in one.comparisons:
        less = ours_less(comparison)
        lines.append(
            (
                f"{title_of(comparison.metric)}, less {short(comparison.system)}",
                [
                    figure(less.mean, signed=True),
                    f"{figure(less.low, signed=True)} to {figure(less.high, signed=True)}",
                    p_said(comparison.p).removeprefix("p ").removeprefix("= "),
                    p_said(comparison.p_corrected).removeprefix("p ").removeprefix("= "),
                ],
            )
        )
    columns = ("difference", "95 % interval", "p", "p, corrected")
    return part.numbers("All comparisons in numbers", "ours", columns, lines)


def _side_by_side(evaluations: Sequence[EvaluationFile]) -> str:
    metric = next((found for one in evaluations if (found := headline(one))), None)
    if metric is None:
        return ""
    names = list(dict.fromkeys(system.name for one in evaluations for system in one.systems))
    styles = styles_of(names)
    head = "".join(f'<th scope="col">{text(one.name)}</th>' for one in evaluations)
    rows = ""
    for name in names:
        cells = ""
        for one in evaluations:
            system = next((system for system in one.systems if system.name == name), None)
            cells += _cell(system.metrics.get(metric) if system else None, None)
        rows += f'<tr><th scope="row">{key(styles[name])}{text(short(name))}</th>{cells}</tr>'
    return (
        f"<h3>{text(title_of(metric))} side by side</h3>"
        f'<div class="wide"><table class="figures"><thead><tr><th scope="col">system</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _meanings(evaluations: Sequence[EvaluationFile]) -> str:
    metrics = metrics_of([system for one in evaluations for system in one.systems])
    lines = [(title_of(metric), [MEANINGS[metric]]) for metric in metrics if metric in MEANINGS]
    drawn = table("metric", ("mean over queries of",), lines)
    return f'<details class="words"><summary>What the metrics measure</summary>{drawn}</details>' if lines else ""

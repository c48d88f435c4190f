"""The text of a model card: what the model is for, how it was made, how good it is, and where it is weak."""

import re
from collections.abc import Sequence

from maxsearch.evaluation.embedded import TEXT_ONLY
from maxsearch.html.words import number, percent, short
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.inputs.evaluation import EvaluationFile, Slice
from maxsearch.report.inputs.shapes import Interval
from maxsearch.report.sections.quality import ours_less
from maxsearch.report.sections.setup import environment_lines, manifest_lines
from maxsearch.report.words import (
    duration,
    headline,
    image_gain,
    metrics_of,
    p_said,
    slice_name,
    title_of,
    without_folders,
)
from maxsearch.training.goodput import STEPS

WEAKEST = 3  # slices named as weak
FEW_QUERIES = 50
MOST_NAMED = 4  # slices in one sentence
SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")


def plain(value: str) -> str:
    """A stranger's text as Markdown that shows it and does nothing else."""
    line = "".join(mark if mark.isprintable() else "\ufffd" for mark in short(value))
    return SPECIAL.sub(r"\\\1", line)


def body(inputs: Inputs, evaluations: Sequence[EvaluationFile], name: str, license_id: str | None) -> str:
    """The card below its YAML; `evaluations` are those of the model."""
    parts = [
        f"# {plain(name)}",
        _intended(inputs),
        _limits(evaluations),
        _data(inputs),
        _procedure(inputs),
        _results(evaluations),
        _loading(),
    ]
    if license_id:
        parts.append(f"## Licence\n\n{plain(license_id)}")
    return "\n\n".join(parts) + "\n"


def _intended(inputs: Inputs) -> str:
    model = inputs.run.config.model
    return (
        f"A search model of maxsearch: it embeds queries, and products of a title and a picture, as vectors of "
        f"{model.dim} numbers, so that one inner product ranks a catalogue. {number(inputs.run.parameters)} parameters."
        "\n\n"
        "## Intended use\n\n"
        "Ranking products of catalogues like the one that it was trained on, for short text queries. The product side "
        "does not see the query, so its vectors are computed once and indexed. It was not made to identify people, to "
        "moderate content, to set prices, or to rank anything but products."
    )


def _limits(evaluations: Sequence[EvaluationFile]) -> str:
    lines = ["It knows the words and the pictures of its training data; other shops and languages were not measured."]
    if not evaluations:
        lines.append("It was not evaluated when this card was made, so nothing is known of its quality.")
    for one in evaluations:
        lines += [f"{plain(one.name)}: {sentence}" for sentence in _weak(one)]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _weak(one: EvaluationFile) -> list[str]:
    metric, main = headline(one), one.main
    if metric is None or main is None:
        return ["the evaluation has no figures."]
    whole = main.metrics[metric]
    lines = [f"warning: {plain_sentence(caution.message)}" for caution in one.warnings]
    ranked = sorted(
        ((found.systems[main.name], found) for found in one.slices if main.name in found.systems),
        key=lambda pair: pair[0].mean,
    )
    below = [(interval, found) for interval, found in ranked if interval.high < whole.mean]
    lines += [
        f"weak where {_slice(found)} ({title_of(found.metric)} {_said(interval)}, against {whole.mean:.3f} overall)."
        for interval, found in below[:WEAKEST]
    ]
    if ranked and not below:
        lines.append("no slice lies clearly below the mean of all queries.")
    gains = [(gain, found) for found in one.slices if (gain := image_gain(found)) is not None]
    nothing = [f"{_slice(found)} ({gain.mean:+.3f})" for gain, found in gains if gain.low <= 0]
    if len(nothing) > MOST_NAMED:
        lines.append(f"in {len(nothing)} of {len(gains)} slices the image's gain over the text alone may be chance.")
    elif nothing:
        lines.append(f"whether the image helps is not certain where {'; '.join(nothing)}.")
    few = [f"{_slice(found)} ({number(found.queries)})" for found in one.slices if found.queries < FEW_QUERIES]
    if few:
        lines.append(f"rests on few queries where {'; '.join(few)}.")
    better = [
        f"{plain(found.system)} ({ours_less(found).mean:+.3f}, corrected {p_said(found.p_corrected)})"
        for found in one.comparisons
        if found.metric == metric and found.mean > 0
    ]
    if better:
        lines.append(f"not better by {title_of(metric)} than {', '.join(better)}.")
    return lines


def plain_sentence(value: str) -> str:
    """A sentence of another command as Markdown, whole and without folders."""
    return SPECIAL.sub(r"\\\1", " ".join(without_folders(value).split()))


def _slice(found: Slice) -> str:
    return plain(slice_name(found))


def _said(interval: Interval) -> str:
    return f"{interval.mean:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}"


def _data(inputs: Inputs) -> str:
    if not inputs.manifests:
        return f"## Training data\n\n{plain_sentence(inputs.no_manifest)}"
    tables = [
        f"{plain(name)}:\n\n" + _table(("", "value"), [(key, value) for key, value in manifest_lines(one).items()])
        for name, one in inputs.manifests.items()
    ]
    return "## Training data\n\n" + "\n\n".join(tables)


def _procedure(inputs: Inputs) -> str:
    run, config = inputs.run, inputs.run.config
    terms = [name.removeprefix("loss/") for name in run.series if name.startswith("loss/")]
    sentences = [
        f"Preset {plain(config.name)}, seed {config.seed}: {number(run.steps)} steps of {config.data.batch_size} pairs"
        + (f" in {duration(run.seconds)}" if run.seconds else "")
        + (f", goodput {percent(run.shares[STEPS])}" if STEPS in run.shares else "")
        + "."
    ]
    if terms:
        sentences.append(f"Loss terms: {', '.join(map(plain, terms))}.")
    if run.begins_with:
        sentences.append(f"Its first parameters are those of {plain(run.begins_with)}.")
    optim = config.optim
    sentences.append(
        f"AdamW with a learning rate of {optim.learning_rate:g} after {number(optim.warmup_steps)} steps of warm-up, "
        f"weight decay {optim.weight_decay:g}, averaged parameters with a decay of {optim.ema_decay:g}; "
        f"{config.model.dtype}."
    )
    sentences.append(f"SHA-256 of the resolved config: `{config.fingerprint()}`.")
    ran = environment_lines(run.processes[-1]) if run.processes else {}
    told = [f"{name} {ran[name]}" for name in ("devices", "Python", "jax", "flax", "git commit") if name in ran]
    if told:
        sentences.append(f"Ran on {plain_sentence(', '.join(told))}.")
    return "## Training procedure\n\n" + " ".join(sentences)


def _results(evaluations: Sequence[EvaluationFile]) -> str:
    if not evaluations:
        return "## Results\n\nNone yet: `maxsearch evaluate --run RUN ... --out results.json`."
    parts = ["## Results\n\nMeans over queries with 95 % bootstrap intervals."]
    for one in evaluations:
        metrics = metrics_of(one.systems)
        rows = []
        for system in one.systems:
            cells = [plain(system.name)]
            for metric in metrics:
                found = system.metrics.get(metric)
                cells.append(f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})" if found else "-")
            rows.append(cells)
        counted = f"{number(one.count('queries_evaluated'))} queries over {number(one.count('products'))} products."
        rests = f"### {plain(one.name)}\n\n{counted}"
        gain = one.comparison(TEXT_ONLY, headline(one) or "")
        if gain is not None:
            less = ours_less(gain)
            rests += (
                f" What the image adds to {title_of(gain.metric)}: {less.mean:+.3f} ({less.low:+.3f} to "
                f"{less.high:+.3f}, corrected {p_said(gain.p_corrected)})."
            )
        parts += [rests, _table(["system", *map(title_of, metrics)], rows)]
    return "\n\n".join(parts)


def _loading() -> str:
    return (
        "## How to use it\n\n```bash\n"
        "maxsearch export --run RUN --out model\n"
        "maxsearch index build --model model --products products.parquet --out index\n"
        'maxsearch search "navy blue casual shoes for men" -k 10 --index index --model model\n'
        "```"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

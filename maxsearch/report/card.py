"""A model card in the Hub's format: YAML that its library writes, and a text that is made from the run."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from maxsearch.report.card_text import body
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.inputs.evaluation import EvaluationFile
from maxsearch.report.page import write_text
from maxsearch.report.words import metrics_of, title_of

TAGS = ("product-search", "retrieval", "multimodal", "e-commerce", "jax", "flax")
LIBRARY, PIPELINE, TASK = "maxsearch", "feature-extraction", "text-retrieval"
DIGITS = 6


def write_card(
    inputs: Inputs, out: Path, *, name: str | None = None, license_id: str | None = None, datasets: Sequence[str] = ()
) -> None:
    """Writes the card.

    Args:
      inputs: what the report is made from.
      out: the file, which appears whole or not at all.
      name: the model's; by default the run folder's.
      license_id: of the model, as the Hub calls it; left out when None.
      datasets: where the training data are on the Hub; by default the names of their folders.

    Raises:
      MaxsearchError: the file cannot be written.
    """
    text = str(card(inputs, name=name, license_id=license_id, datasets=datasets))
    write_text(out, text.encode("utf-8", "replace"), "--card")


def card(inputs: Inputs, *, name: str | None, license_id: str | None, datasets: Sequence[str]) -> ModelCard:
    """The card, as `write_card` writes it."""
    name = name or inputs.run.name
    evaluations = of_one_model(inputs.evaluations)
    results = [result for one in evaluations for result in _results(one)]
    data = ModelCardData(
        license=license_id,
        tags=list(TAGS),
        library_name=LIBRARY,
        pipeline_tag=PIPELINE,
        datasets=list(datasets) or list(inputs.manifests) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body(inputs, evaluations, name, license_id)}")


def of_one_model(evaluations: Sequence[EvaluationFile]) -> list[EvaluationFile]:
    """The evaluations of the model that the first one is of: a page may compare several, a card is of one."""
    models = [one.settings.get("model_fingerprint") for one in evaluations]
    return [one for one, model in zip(evaluations, models, strict=True) if model == models[0]]


def _results(one: EvaluationFile) -> list[EvalResult]:
    """The model's own figures; those of the systems that it was compared with are in the text."""
    if one.main is None:
        return []
    found = []
    for metric in metrics_of([one.main]):
        interval = one.main.metrics[metric]
        found.append(
            EvalResult(
                task_type=TASK,
                task_name="Text to product retrieval",
                dataset_type=_dataset_type(one),
                dataset_name=one.name,
                metric_type=metric,
                metric_name=title_of(metric),
                metric_value=round(interval.mean, DIGITS),
                metric_args={
                    "interval": 0.95,
                    "low": round(interval.low, DIGITS),
                    "high": round(interval.high, DIGITS),
                    "queries": one.count("queries_evaluated"),
                },
            )
        )
    return found


def _dataset_type(one: EvaluationFile) -> str:
    """What the evaluation ranked: its catalogue's file, and the evaluation's name, which tells its columns apart."""
    products = one.setting("products", str)
    stem = Path(products).name.partition(".")[0] if products else "evaluation"
    return f"{stem}/{one.name}"

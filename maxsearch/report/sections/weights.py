"""How much title and image weigh in the product vectors, by category."""

from maxsearch.html.markup import text
from maxsearch.html.words import number, short
from maxsearch.report.charts.bars import shares
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.sections import part
from maxsearch.report.sections.quality import COMMAND, FLAG

MOST_VALUES = 25


def weights(inputs: Inputs) -> part.Part:
    """The section."""
    title = "How much the image weighs"
    weighed = [(one.name, one.weights) for one in inputs.evaluations if one.weights is not None and one.weights.rows]
    if not weighed:
        command = COMMAND.replace(" --out", " --weights-by category --out")
        return part.Part("weights", title, part.missing("No modality weights were given:", command, FLAG))
    body = ""
    for name, found in weighed:
        heading = f"<h3>{text(name)}</h3>" if len(inputs.evaluations) > 1 else ""
        # Shares of a whole, whatever the last digits of the means say.
        rows = [
            (short(row.value or "(none)"), f"{number(row.products)} products", (row.title / whole, row.image / whole))
            for row in found.rows[:MOST_VALUES]
            if (whole := row.title + row.image) > 0
        ]
        more = len(found.rows) - MOST_VALUES
        left = part.said(f"{number(more)} rarer values are in the evaluation's file.") if more > 0 else ""
        drawn = shares(rows, ("title", "image"), found.attribute, "mean weight in the product's vector")
        body += f"<div>{heading}{drawn}{left}</div>"
    return part.Part("weights", title, f'<div class="pair">{body}</div>')

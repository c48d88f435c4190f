"""The queries that went most wrong: what was returned beside what should have been, with pictures."""

from dataclasses import dataclass

from maxsearch.html.markup import text, thumbnail
from maxsearch.html.words import number, short
from maxsearch.report.inputs.collect import RETURNED_SHOWN, WANTED_SHOWN, WORST_SHOWN, Inputs
from maxsearch.report.inputs.evaluation import EvaluationFile, Returned, Wanted, Worst
from maxsearch.report.pictures import Pictures
from maxsearch.report.sections import part
from maxsearch.report.sections.quality import COMMAND, FLAG
from maxsearch.report.words import title_of

MOST_BYTES = 6_000_000  # of pictures on a page, as they stand there
OPEN = 4  # queries that need no click
BEST_GRADE = 2  # borders tell this many grades above 0 apart; those above look like the last


@dataclass
class _Budget:
    left: int
    refused: int = 0

    def takes(self, data: bytes) -> bool:
        size = len(data) * 4 // 3
        if size > self.left:
            self.refused += 1
            return False
        self.left -= size
        return True


def worst(inputs: Inputs) -> part.Part:
    """The section."""
    title, failed = "Worst queries", [one for one in inputs.evaluations if one.worst]
    if not failed:
        return part.Part("worst", title, part.missing("No evaluation with its worst queries was given:", COMMAND, FLAG))
    budget, several = _Budget(MOST_BYTES), len(inputs.evaluations) > 1
    body = part.said(
        f"Up to {WORST_SHOWN} queries with the lowest figures: the first {RETURNED_SHOWN} that were returned, and up "
        f"to {WANTED_SHOWN} that the judgments ask for, with the rank where the model has them. The border tells the "
        "grade: dotted 0, dashed 1, solid 2 or more. Folded queries are printed without their products."
    )
    body += "".join(_evaluated(one, inputs.pictures[one.name], budget, several=several) for one in failed)
    if budget.refused:
        note = f"{number(budget.refused)} pictures were left out, so that the page stays light."
        body += f'<p class="missing">{text(note)}</p>'
    return part.Part("worst", title, body)


def _evaluated(one: EvaluationFile, pictures: Pictures, budget: _Budget, *, several: bool) -> str:
    heading = f"<h3>{text(one.name)}</h3>" if several else ""
    note = f'<p class="missing">{text(pictures.absent)}</p>' if pictures.absent else ""
    k = one.setting("k", int)
    shown = one.worst[:WORST_SHOWN]
    cards = (_query(query, k, pictures, budget, opened=at < OPEN) for at, query in enumerate(shown))
    return heading + note + "".join(cards)


def _query(one: Worst, k: int | None, pictures: Pictures, budget: _Budget, *, opened: bool) -> str:
    returned = "".join(
        _product(product, f"{rank}.", pictures, budget) for rank, product in enumerate(one.returned[:RETURNED_SHOWN], 1)
    )
    wanted = "".join(_product(product, _rank(product, k), pictures, budget) for product in one.wanted[:WANTED_SHOWN])
    return (
        f'<details class="query"{" open" if opened else ""}><summary><b>{text(short(one.query))}</b> '
        f'<span class="soft">{text(title_of(one.metric))} {one.value:.3f}, query {text(short(one.query_id))}</span>'
        f'</summary><h4>Returned</h4><div class="row">{returned or "<p>nothing</p>"}</div>'
        f'<h4>Wanted</h4><div class="row">{wanted or "<p>nothing</p>"}</div></details>'
    )


def _rank(product: Wanted, k: int | None) -> str:
    if product.rank is not None:
        return f"at rank {number(product.rank)}"
    return f"not in the first {number(k)}" if k else "not found"


def _product(product: Returned | Wanted, where: str, pictures: Pictures, budget: _Budget) -> str:
    title = f"<bdi>{text(short(product.title), isolate=False)}</bdi>" if product.title else "<i>no title</i>"
    grade = min(max(product.grade, 0), BEST_GRADE)
    return (
        f'<div class="item grade{grade}">{_picture(product, pictures, budget)}'
        f"<b>{text(where)}</b> grade {product.grade}<br>{title}"
        f'<br><span class="soft">{text(short(product.product_id))}</span></div>'
    )


def _picture(product: Returned | Wanted, pictures: Pictures, budget: _Budget) -> str:
    data = pictures.by_id.get(product.product_id)
    if data is not None and budget.takes(data):
        return thumbnail(data, product.title, lazy=False)
    if data is not None:
        said = "left out"
    elif product.product_id in pictures.known:
        said = "no picture"
    else:
        said = "" if pictures.absent else "not in the file"
    return f'<div class="none">{said}</div>' if said else ""

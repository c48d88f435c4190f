"""A sample product on the page."""

from collections.abc import Sequence

from maxsearch.data.records import Product
from maxsearch.html.markup import text, thumbnail
from maxsearch.html.words import number, short

PICTURES_SHOWN = 4


def card(product: Product, clicks: float, queries: Sequence[tuple[float, str]]) -> str:
    """A sample product with all that belongs to it.

    Args:
      product: the product.
      clicks: the sum of its interactions' weights.
      queries: (weight, query), the weightiest first.
    """
    pictures = "".join(thumbnail(data, product.title) for data in product.images[:PICTURES_SHOWN] or (None,))
    name = text(product.title) if product.title else '<span class="soft">no title</span>'
    facts = [f"id {product.product_id}"]
    facts += [f"variant {product.variant}"] if product.variant else []
    facts += [f"{column}: {short(value)}" for column, value in product.attributes.items() if value]
    facts += [short(value) for value in product.texts if value]
    asked = "".join(f"<li>{text(query)} ({number(weight)})</li>" for weight, query in queries)
    return (
        f'<article class="card"><div class="pictures">{pictures}</div><strong>{name}</strong>'
        f'<div class="soft">{"<br>".join(text(fact) for fact in facts)}</div>'
        f"<div>{number(clicks)} clicks</div>{f'<ul>{asked}</ul>' if asked else ''}</article>"
    )

"""Whether the test was seen in training: judged pairs among the clicks, and products in both catalogues.

A figure is of new queries or new products only where neither stands in the training data. Pictures are compared as
they are stored, so that data prepared with another --image-edge than the model's are told apart by identifier only.

n judged pairs, P products of the catalogue.
"""

import numpy as np
from jaxtyping import UInt64

from maxsearch.data.keys import NONE, joined
from maxsearch.evaluation.results import Warned
from maxsearch.evaluation.training_data import TrainingData, holds

PAIRS, IDS, LISTINGS = "leaked_pairs", "training_ids", "training_products"
LEAKS = (PAIRS, IDS, LISTINGS)


def leaks(
    training: TrainingData,
    queries: UInt64[np.ndarray, " n"],
    products: UInt64[np.ndarray, " n"],
    listings: UInt64[np.ndarray, " n"],
    catalogue_ids: UInt64[np.ndarray, " P"],
    catalogue_listings: UInt64[np.ndarray, " P"],
) -> list[Warned]:
    """What a test shares with training, one sentence each; nothing where it shares nothing.

    Args:
      training: what training saw.
      queries: key of the query of each relevant pair.
      products, listings: keys of its product's identifier, and of title and picture.
      catalogue_ids, catalogue_listings: the same keys of every product that is ranked.
    """
    by_id = holds(training.id_pairs, joined(queries, products))
    by_listing = (listings != NONE) & holds(training.listing_pairs, joined(queries, listings))
    pairs = int((by_id | by_listing).sum())
    ids = int(holds(training.ids, catalogue_ids).sum())
    same = int(((catalogue_listings != NONE) & holds(training.listings, catalogue_listings)).sum())
    found = []
    if pairs:
        found.append(
            Warned(
                PAIRS,
                f"{pairs:,} of {len(queries):,} relevant pairs of query and product stand in the training "
                f"interactions of {training.path}: the figures tell what was learned by heart; judge other pairs",
            )
        )
    if ids:
        found.append(
            Warned(
                IDS,
                f"{ids:,} of {len(catalogue_ids):,} products have the identifier of a training product of "
                f"{training.path}: the figures are not of unseen products, unless other products have those numbers",
            )
        )
    if same:
        found.append(
            Warned(
                LISTINGS,
                f"{same:,} of {len(catalogue_ids):,} products have the title and picture of a training product of "
                f"{training.path}: the figures are not of unseen products; take the copies out of either",
            )
        )
    return found

"""What a model is compared with: each a ranker that sees the catalogue once, in order; `parse_baselines` makes them."""

from maxsearch.evaluation.baselines.chance import random_ranking
from maxsearch.evaluation.baselines.lexical import bm25

__all__ = ["bm25", "random_ranking"]

"""The exact search that evaluation ranks with; see `maxsearch.topk`."""

from maxsearch.topk import Ranking, TopK, top_k

__all__ = ["Ranking", "TopK", "top_k"]

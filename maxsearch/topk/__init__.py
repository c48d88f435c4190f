"""Exact search: the best products of each query by inner product, over a catalogue that streams past."""

from maxsearch.topk.ranking import Ranking
from maxsearch.topk.stream import TopK, top_k

__all__ = ["Ranking", "TopK", "top_k"]

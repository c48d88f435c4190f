"""The contrastive terms of losses/pairs.py in PyTorch.

B batch, E size of the compared vectors.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.twin import HIDDEN, Vectors
from maxsearch.config import LossConfig
from maxsearch.config.loss import CONTRASTIVE


def total_loss(vectors: Vectors, batch: dict[str, Tensor], config: LossConfig) -> Tensor:
    """The weighted sum of the terms whose weight is above 0."""
    everywhere = torch.ones_like(batch["query"], dtype=torch.bool)
    sides = {
        "query": (vectors.query, everywhere),
        "product": (vectors.product, everywhere),
        "title": (vectors.title, batch["title_mask"].any(dim=1)),
        "image": (vectors.image, batch["image_present"].any(dim=1)),
    }
    together = positives(batch)
    weights = batch["weight"] ** config.pair_power
    margin = vectors.logit_scale * (config.margin if config.kind == "am_softmax" else 0.0)
    loss = torch.zeros(())
    for name in CONTRASTIVE:
        if config.weights[name] == 0:
            continue
        (left, left_present), (right, right_present) = (sides[side] for side in name.split("_"))
        logits = vectors.logit_scale * (left @ right.T)
        valid = left_present[:, None] & right_present[None, :]
        hit, miss = valid & together, valid & ~together
        both = rows(logits, hit, miss, margin, weights) + rows(logits.T, hit.T, miss.T, margin, weights)
        loss = loss + config.weights[name] * 0.5 * both
    return loss


def positives(batch: dict[str, Tensor]) -> Tensor:
    """Which pairs [B, B] share the query, the product or the variant group."""

    def same(name: str) -> Tensor:
        return batch[name][:, None] == batch[name][None, :]

    return same("query") | same("product") | (same("variant") & (batch["variant"] >= 0)[:, None])


def rows(logits: Tensor, hit: Tensor, miss: Tensor, margin: Tensor, weights: Tensor) -> Tensor:
    """Each positive of a row against its negatives, as the mean over positives and then over rows by weight."""
    against = logits.masked_fill(~miss, HIDDEN).logsumexp(dim=1, keepdim=True)
    losses = functional.softplus(against - (logits - margin)).masked_fill(~hit, 0).sum(dim=1)
    count = hit.sum(dim=1)
    weights = weights * (count > 0)
    return (losses / count.clamp(min=1) * weights).sum() / weights.sum().clamp(min=1e-9)

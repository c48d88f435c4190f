"""PyTorch's training step: what maxsearch's step does, written as a PyTorch user would for speed.

Fused AdamW, foreach clipping and averaging, gradients set to None, no copy of the batch.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch

from benchmarks.peers.settings import Options
from benchmarks.peers.twin import TorchSearchModel
from benchmarks.peers.twin_loss import total_loss
from maxsearch.config import Config

Groups = Mapping[str, tuple[float, float]]


class TorchStep:
    """The model, its averaged copy and the optimizer; calling it trains on one batch.

    Attributes:
      model: the twin.
      ema: the average of its parameters, in their order.
    """

    def __init__(
        self,
        config: Config,
        start: Mapping[str, np.ndarray],
        groups: Groups,
        *,
        compiled: bool = False,
        options: Options | None = None,
    ) -> None:
        """Args: the config, the first value of each parameter, and its group as `weights.group_settings` gives it."""
        options = options or Options()
        self._config, self._done = config, 0
        self.model = TorchSearchModel(config, options.block)
        self.model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in start.items()})
        self.model.train()
        named = dict(self.model.named_parameters())
        self._parameters = list(named.values())
        self.ema = [parameter.detach().clone() for parameter in self._parameters]
        alike: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, parameter in named.items():
            alike.setdefault(groups[name], []).append(parameter)
        optim = config.optim
        self._optimizer = torch.optim.AdamW(
            [{"params": each, "factor": lr, "weight_decay": decay} for (lr, decay), each in alike.items()],
            lr=optim.learning_rate,
            betas=(optim.b1, optim.b2),
            eps=optim.eps,
            fused=True,
        )
        self._loss = torch.compile(self.loss, dynamic=False, mode=options.compile_mode) if compiled else self.loss

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, as a scalar."""
        return total_loss(self.model(batch), batch, self._config.loss)

    def gradients(self, batch: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """The loss of a batch and the gradient of every parameter, zero where there is none; nothing is updated."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(tensors(batch))
        loss.backward()
        found = {
            name: np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy().copy()
            for name, parameter in self.model.named_parameters()
        }
        return loss.item(), found

    def __call__(self, batch: Mapping[str, np.ndarray]) -> float:
        """One update from a batch in the host's memory; the loss before it."""
        optim = self._config.optim
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(tensors(batch))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, optim.clip_norm, foreach=True)
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            return loss.item()
        rate = learning_rate(self._done, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self._optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(self._config.loss.max_scale))
            decay = min(optim.ema_decay, (1 + self._done) / (10 + self._done))
            torch._foreach_lerp_(self.ema, self._parameters, 1 - decay)
        self._done += 1
        return loss.item()


def tensors(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays as tensors that share their memory."""
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def learning_rate(done: int, config: Config) -> float:
    """Linear warm-up, then a cosine from the peak to `final_lr` x the peak; `done` counts updates."""
    optim, horizon = config.optim, config.train.steps
    warm = min(1.0, (done + 1) / max(optim.warmup_steps, 1))
    progress = min(max((done - optim.warmup_steps) / max(horizon - optim.warmup_steps, 1), 0.0), 1.0)
    cosine = optim.final_lr + (1 - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    return optim.learning_rate * warm * cosine

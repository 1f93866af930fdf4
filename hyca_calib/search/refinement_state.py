"""A refinement of taps that survives an interruption."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyca_calib.records.atomic import replacing
from hyca_calib.search.options import Refinement

LATEST = 9
"""The average weighs the latest parameters by ten over the iterations plus nine, so it remembers about the last tenth:
polynomial-decay averaging (Shamir and Zhang 2013, arXiv 1212.1824)."""


class RefinementState:
    """What survives an interruption: parameters, their average and optimizer, the best so far, the clock.

    Gradients of a few samples leave parameters noisy; their average is nearer to where they go, and is what is judged.
    """

    def __init__(self, theta: Tensor, settings: Refinement, path: Path) -> None:
        self.theta, self._settings, self._path = theta.requires_grad_(), settings, path
        self._optimizer = torch.optim.Adam([self.theta], lr=settings.lr, betas=(0.9, 0.98))
        self.best, self.average = theta.detach().clone(), theta.detach().clone()
        self.best_error = self.first_error = math.inf
        self.iteration, self.seconds = 0, 0.0
        kept = load_file(path, device=str(theta.device)) if path.exists() else {}
        if "parameters" in kept and kept["parameters"].shape == theta.shape:  # else of an older version
            self._restore(kept)
        self._begun = time.monotonic() - self.seconds

    @property
    def spent(self) -> float:
        """The share of the time that is spent."""
        seconds = 60 * self._settings.minutes
        return min(1.0, (time.monotonic() - self._begun) / seconds) if seconds else 1.0

    @property
    def share(self) -> float:
        """The share of the work that is done; of iterations, if they are limited, lest steps depend on the machine."""
        iterations = self._settings.iterations
        return min(1.0, self.iteration / iterations) if iterations else self.spent

    def step(self, loss: Tensor, lr: float) -> None:
        """Move the parameters down the gradient of `loss`."""
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.iteration += 1
        self.average.lerp_(self.theta.detach(), (1 + LATEST) / (self.iteration + LATEST))

    def note(self, error: float) -> None:
        """Keep on disk that the average has this error on the select split."""
        self.seconds = time.monotonic() - self._begun
        self.first_error = error if self.first_error == math.inf else self.first_error
        if error < self.best_error:
            self.best_error, self.best = error, self.average.clone()
        numbers = [self.best_error, self.first_error, float(self.iteration), self.seconds]
        tensors = {
            "parameters": self.theta.detach(),
            "average": self.average,
            "best": self.best,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        if moments := self._optimizer.state.get(self.theta):
            tensors |= {"step": moments["step"], "mean": moments["exp_avg"], "square": moments["exp_avg_sq"]}
        with replacing(self._path) as partial:
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial)

    def _restore(self, kept: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.theta.copy_(kept["parameters"])
        if "mean" in kept:
            moments = {"step": kept["step"], "exp_avg": kept["mean"], "exp_avg_sq": kept["square"]}
            self._optimizer.state[self.theta] = moments
        self.best, self.average = kept["best"], kept.get("average", kept["parameters"]).clone()
        self.best_error, self.first_error, iteration, self.seconds = kept["numbers"].double().tolist()
        self.iteration = int(iteration)

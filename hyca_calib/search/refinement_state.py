"""A refinement of taps that survives an interruption."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from hyca_calib.records.kept_tensors import keep, kept
from hyca_calib.search.options import Refinement

LATEST = 9
"""The average weighs the latest parameters by ten over the iterations plus nine, so it remembers about the last tenth:
polynomial-decay averaging (Shamir and Zhang 2013, arXiv 1212.1824)."""


class RefinementState:
    """What survives an interruption: parameters, their average and optimizer, the best so far, the clock.

    Gradients of a few samples leave parameters noisy; their average is nearer to where they go, and is what is judged.

    Args:
        of: whose parameters they are; what is on disk of another's is not used.
    """

    def __init__(self, theta: Tensor, settings: Refinement, path: Path, of: str = "") -> None:
        self.theta, self._settings, self._path, self._of = theta.requires_grad_(), settings, path, of
        self._optimizer = torch.optim.Adam([self.theta], lr=settings.lr, betas=(0.9, 0.98))
        self.best, self.average = theta.detach().clone(), theta.detach().clone()
        self.best_error = self.first_error = math.inf
        self.iteration, self.lost, self.seconds = 0, 0, 0.0
        known, _ = kept(path, of, str(theta.device))
        if known and known["parameters"].shape == theta.shape:
            self._restore(known)
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

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The clock stands still meanwhile."""
        begun = time.monotonic()
        yield
        self._begun += time.monotonic() - begun

    def step(self, loss: Tensor, lr: float) -> None:
        """Move the parameters down the gradient of `loss`, unless that is not finite."""
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.iteration += 1
        if self.theta.grad is not None and not self.theta.grad.isfinite().all():
            self.lost += 1
            return
        self._optimizer.step()
        self.average.lerp_(self.theta.detach(), (1 + LATEST) / (self.iteration + LATEST))

    def note(self, error: float) -> None:
        """Keep on disk that the average has this error on the select split."""
        self.seconds = time.monotonic() - self._begun
        self.first_error = error if self.first_error == math.inf else self.first_error
        if error < self.best_error:
            self.best_error, self.best = error, self.average.clone()
        numbers = [self.best_error, self.first_error, float(self.iteration), self.seconds, float(self.lost)]
        tensors = {
            "parameters": self.theta.detach(),
            "average": self.average,
            "best": self.best,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        if moments := self._optimizer.state.get(self.theta):
            tensors |= {"step": moments["step"], "mean": moments["exp_avg"], "square": moments["exp_avg_sq"]}
        keep(self._path, self._of, tensors)

    def _restore(self, known: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.theta.copy_(known["parameters"])
        if "mean" in known:
            moments = {"step": known["step"], "exp_avg": known["mean"], "exp_avg_sq": known["square"]}
            self._optimizer.state[self.theta] = moments
        self.best, self.average = known["best"], known["average"]
        self.best_error, self.first_error, iteration, self.seconds, *lost = known["numbers"].double().tolist()
        self.iteration, self.lost = int(iteration), int(lost[0]) if lost else 0  # none were told of formerly

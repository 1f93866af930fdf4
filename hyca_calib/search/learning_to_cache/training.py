r"""The training of a router: a gate for each layer on each of some steps.

A gate is the sigmoid of a free number, whatever the input. The loss is that of the gated steps (see `gates`) and the
published regulariser,

.. math:: \sum_m \Big( \mathrm{MSE}_m + \lambda \sum_i \beta_{m,i} \Big).

A price :math:`\lambda` for DiT-XL says nothing about another network or budget. Here the first iteration, with all
gates half open, tells the slope of the loss at each; the price begins where the budget parts these, and gates near one
half, above it if their slope is more than the price. In each further iteration the price goes up or down a little, as
the gates above one half cost more than the budget or not.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.records.atomic import replacing
from hyca_calib.search.learning_to_cache.gates import GatedRun
from hyca_calib.search.learning_to_cache.rule import HALF, Gated, least_threshold
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import step_size
from hyca_calib.search.replay import Array
from hyca_calib.search.smoothcache.layers import Layers

LR = 0.3
"""Published are thousands of iterations of 0.001; a search has tens."""
BATCH = 2
LIMIT = 5.0
"""Largest number before the sigmoid, as published."""
FIRST_LIMIT = 1.0
"""Of what the first slopes say, lest they decide."""
PRICE_STEP = 1.1
LEAST_PRICE = 1e-30


@dataclass(frozen=True)
class Training:
    """What a router is trained for.

    Attributes:
        layers: one by one, for each a gate on a step.
        limits: minutes and iterations; batch and learning rate are this module's.
    """

    pipe: Any
    problem: Problem
    layers: Layers
    site: Gated
    budget: Budget
    limits: Refinement
    seed: int = 0


def train_router(
    training: Training, path: Path, on_progress: Callable[[float, float], None] = lambda share, loss: None
) -> tuple[Array, dict[str, Any]]:
    """Train gates until the time is spent.

    Args:
        path: gates, optimizer and clock are kept here after every iteration; a second call goes on from them.
        on_progress: told the share of the work that is done, and the loss without the regulariser.

    Returns:
        Gates ``(step, layer)``, and an account of the training.

    Raises:
        BudgetError: it cannot be met.
        AttachError: see `GatedRun.slopes`.
    """
    problem, site = training.problem, training.site
    run = GatedRun(training.pipe, problem, training.layers.points, site.steps)
    state = _State((len(site.steps), len(site.names)), training, path)
    jobs = problem.workload.of("fit")
    batch = min(BATCH, problem.trace.attributes.batch, len(jobs))
    while state.share < 1 or not state.iteration:
        on_progress(state.share, state.loss)
        picker = random.Random(f"{training.seed} {state.iteration}")  # the same after an interruption
        router = torch.sigmoid(state.numbers.detach())
        slopes, loss = run.slopes(picker.sample(jobs, batch), router)
        if state.iteration:
            state.price = next_price(state.price, router, training)
            state.step(gradient(slopes, state.price, router))
        else:
            state.price = first_price(slopes, training)
            state.begin(slopes)
        state.keep(loss)
    on_progress(1.0, state.loss)
    account = {"iterations": state.iteration, "batch": batch, "regulariser": state.price}
    return torch.sigmoid(state.numbers.detach()).double().cpu().numpy(), account


def gradient(slopes: Tensor, price: float, router: Tensor) -> Tensor:
    """Of the loss and the regulariser, to the numbers before the sigmoid.

    Args:
        slopes: of the loss alone, to the gates.
        router: the gates.
    """
    return (slopes + price) * router * (1 - router)


def first_price(slopes: Tensor, training: Training) -> float:
    """The regulariser's weight with which the budget parts the slopes."""
    return max(least_threshold(-_array(slopes), training.budget, training.site), LEAST_PRICE)


def next_price(price: float, router: Tensor, training: Training) -> float:
    """A higher weight if gates above one half cost more than the budget, else a lower one."""
    site = training.site
    dear = site.run_flops(_array(router) <= HALF) > site.allowed(training.budget)
    return price * PRICE_STEP if dear else price / PRICE_STEP


def _array(values: Tensor) -> Array:
    return values.double().cpu().numpy()


class _State:
    """What survives an interruption: the numbers before the sigmoid and their optimizer, the price, the clock."""

    def __init__(self, shape: tuple[int, int], training: Training, path: Path) -> None:
        self._limits, self._path = training.limits, path
        self.numbers = torch.zeros(shape, device=runs_on(training.pipe)).requires_grad_()
        self._optimizer = torch.optim.Adam([self.numbers], lr=LR, betas=(0.9, 0.98))
        self.iteration, self.price, self.loss, seconds = 0, 0.0, math.inf, 0.0
        if path.exists():
            kept = load_file(path, device=str(self.numbers.device))
            iteration, self.price, self.loss, seconds = kept["facts"].tolist()
            self.iteration = int(iteration)
            with torch.no_grad():
                self.numbers.copy_(kept["numbers"])
            if "mean" in kept:
                moments = {"step": kept["step"].cpu(), "exp_avg": kept["mean"], "exp_avg_sq": kept["square"]}
                self._optimizer.state[self.numbers] = moments
        self._begun = time.monotonic() - seconds

    @property
    def share(self) -> float:
        """The share of the limits that is spent; of iterations, if they are limited and the time is not over."""
        seconds, iterations = 60 * self._limits.minutes, self._limits.iterations
        spent = (time.monotonic() - self._begun) / seconds if seconds else 1.0
        return self.iteration / iterations if iterations and spent < 1 else min(1.0, spent)

    def begin(self, slopes: Tensor) -> None:
        """Put the numbers where a gate is one half if its slope is the price."""
        with torch.no_grad():
            self.numbers.copy_((-slopes / self.price).clamp_min(1e-9).log().clamp(-FIRST_LIMIT, FIRST_LIMIT))

    def step(self, gradient: Tensor) -> None:
        """Move the numbers down a gradient."""
        self._optimizer.param_groups[0]["lr"] = step_size(Refinement(lr=LR), self.share)
        self.numbers.grad = gradient
        self._optimizer.step()
        with torch.no_grad():
            self.numbers.clamp_(-LIMIT, LIMIT)

    def keep(self, loss: float) -> None:
        """Count an iteration, and keep on disk where it led."""
        self.iteration, self.loss = self.iteration + 1, loss
        facts = [self.iteration, self.price, self.loss, time.monotonic() - self._begun]
        tensors = {"numbers": self.numbers.detach(), "facts": torch.tensor(facts, dtype=torch.float64)}
        if moments := self._optimizer.state.get(self.numbers):
            tensors |= {"step": moments["step"], "mean": moments["exp_avg"], "square": moments["exp_avg_sq"]}
        with replacing(self._path) as partial:
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial)

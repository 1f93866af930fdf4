r"""BudCache (arXiv 2606.13496): exactly N computed steps, searched for by rollouts of the model itself.

Between computed steps the last residual of the block stack is added to the live embedding (its release), or the
last velocity is kept (its formula of the cached Euler update): both are offered. Masks of N computed steps, the
first among them, are searched for the least mean squared error of the final latent to the full run's: simulated
annealing from a random mask, with moves of a computed step to a place nearby ("shift") or to any other ("swap"),
then hill climbing to the best neighbour until there is no better one. Settings of the release: one prompt, one
start, 200 moves of annealing, temperatures that fall geometrically, at most 20 climbs (5 for video), which look at
all shifts by up to 3 steps and at two random swaps of every computed step.

Its temperatures are absolute (0.05 to 1e-5 for FLUX); here they are shares of the first mask's error, else they
would mean something different on every model. Left out is its optional second stage, noise levels trained by
gradients through whole rollouts: its own results are without it unless it says so, and with other noise levels the
sampler is another one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hyca_calib.peers.base import Axis, Family, Settings, Setup
from hyca_calib.peers.planned import OUTPUT, RESIDUAL, Following, near
from hyca_calib.peers.stepwise import stepwise
from hyca_calib.rollout import sample_latents
from hyca_calib.workload import Job
from hyca_runtime.point import CachePoint

__all__ = ["Steps", "budcache_family", "search_steps"]

Steps = tuple[int, ...]
"""Computed steps, ascending."""

POINTS = {"residual": RESIDUAL, "velocity": OUTPUT}
PERCENTS = (6, 8, 10, 12, 16, 20, 24, 32, 40, 50, 60, 68, 80, 90)
FIRST = (10, 16, 24, 40, 60)
HOT, COLD = 0.2, 1e-4
"""First and last temperature of the annealing, in errors of the first mask."""
REACH, FAR_SWAPS, NEAR_SHARE = 3, 2, 0.7
"""Farthest shift; swaps of each computed step that a climb looks at; share of shifts among the moves of annealing."""
CLIMBS = 20


def budcache_family(pipe: Any, setup: Setup) -> Family:
    """BudCache; every setting searches once, on the first of `setup.jobs`."""
    del pipe
    ladder = near(range(2, setup.num_steps), setup.num_steps, PERCENTS)
    prompts = tuple(n for n in (1, 2, 4, 8) if n <= len(setup.jobs))

    @contextmanager
    def apply(pipe: Any, settings: Settings) -> Iterator[None]:
        point, count = POINTS[str(settings["reuse"])], int(settings["computed"])
        jobs, moves = setup.jobs[: int(settings["prompts"])], int(settings["moves"])
        name = f"BudCache, {settings['reuse']}, {count} steps, {len(jobs)} prompts, {moves} moves"
        steps = setup.recall(name, lambda: _searched(pipe, point, jobs, setup.num_steps, count, moves))
        with stepwise(pipe, Following(frozenset(steps)), point, depth=1):
            yield

    axes = (
        Axis("computed", ladder, near(ladder, setup.num_steps, FIRST)),
        Axis("prompts", prompts, (1, prompts[-1])),
        Axis("moves", (50, 200, 800), (200,)),
        Axis("reuse", tuple(POINTS), ("residual",), closed=True),
    )
    return Family("BudCache", "arXiv 2606.13496, own implementation", axes, apply, setup.num_steps)


def _searched(pipe: Any, point: CachePoint, jobs: Sequence[Job], num_steps: int, count: int, moves: int) -> list[int]:
    goal = sample_latents(pipe, jobs, num_steps, len(jobs))

    def error(steps: Steps) -> float:
        with stepwise(pipe, Following(frozenset(steps)), point, depth=1):
            return float((sample_latents(pipe, jobs, num_steps, len(jobs)) - goal).square().mean())

    return list(search_steps(error, num_steps, count, moves))


def search_steps(error: Callable[[Steps], float], num_steps: int, count: int, moves: int, seed: int = 0) -> Steps:
    """The best `count` steps that annealing and climbing see; never worse than the random ones they begin with."""
    rng, known = random.Random(seed), dict[Steps, float]()

    def judged(steps: Steps) -> float:
        if steps not in known:
            known[steps] = error(steps)
        return known[steps]

    leading = max(1, count // 4)
    here: Steps = (*range(leading), *sorted(rng.sample(range(leading, num_steps), count - leading)))
    hot = HOT * judged(here)
    if hot > 0 and 1 < count < num_steps:
        for move in range(moves):
            there = _moved(here, num_steps, rng)
            worse = judged(there) - judged(here)
            if worse <= 0 or rng.random() < math.exp(-worse / (hot * (COLD / HOT) ** (move / moves))):
                here = there
        _climb(judged, here, num_steps, rng)
    return min(known, key=lambda steps: (known[steps], steps))


def _moved(steps: Steps, num_steps: int, rng: random.Random) -> Steps:
    """One computed step shifted a little or swapped; the first stays."""
    old = rng.choice(steps[1:])
    free = [new for new in range(1, num_steps) if new not in steps]
    near_by = [new for new in free if abs(new - old) <= REACH]
    return _replaced(steps, old, rng.choice(near_by if near_by and rng.random() < NEAR_SHARE else free))


def _climb(judged: Callable[[Steps], float], here: Steps, num_steps: int, rng: random.Random) -> None:
    """Go to the best neighbour as long as there is a better one."""
    for _ in range(CLIMBS):
        free = [new for new in range(1, num_steps) if new not in here]
        neighbours = [
            _replaced(here, old, new)
            for old in here[1:]
            for new in (
                *(new for new in free if abs(new - old) <= REACH),
                *rng.sample(free, min(FAR_SWAPS, len(free))),
            )
        ]
        best = min(neighbours, key=lambda steps: (judged(steps), steps))
        if judged(best) >= judged(here):
            return
        here = best


def _replaced(steps: Steps, old: int, new: int) -> Steps:
    return tuple(sorted({*steps, new} - {old}))

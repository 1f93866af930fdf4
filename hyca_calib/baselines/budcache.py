r"""BudCache (arXiv 2606.13496): exactly N computed steps, searched for by rollouts of the model itself.

Between computed steps the last residual of the block stack is added to the live embedding (its release), or the
last velocity is kept (its formula of the cached Euler update): both are offered. Masks of N computed steps, the
first among them, are searched for the least mean squared error of the final latent to the full run's: simulated
annealing from a random mask, with moves of a computed step to a place nearby ("shift") or to any other ("swap"),
then hill climbing to the best neighbour until there is no better one, then all again from another mask until the
rollouts are spent. Settings of the release: one prompt, 200 moves of annealing with temperatures that fall
geometrically, at most 20 climbs (5 for video), which look at all shifts by up to 3 steps and at two random swaps of
every computed step, one start; that takes a few hundred rollouts, so more starts make the search no worse.

Its temperatures are absolute (0.05 to 1e-5 for FLUX); here they are shares of the first mask's error, else they
would mean something different on every model. Left out is its optional second stage, noise levels trained by
gradients through whole rollouts: its own results are without it unless it says so, and with other noise levels the
sampler is another one.
"""

import math
import random
from collections.abc import Callable
from typing import Any

from hyca_calib.baselines.base import Applied, Axis, Family, Settings, Setup, nearest
from hyca_calib.baselines.stepwise import OUTPUT, RESIDUAL, solver_weights, tabled
from hyca_calib.pipelines.rollout import sample_latents
from hyca_runtime.solvers import Hold

Steps = tuple[int, ...]
"""Computed steps, ascending."""

POINTS = {"residual": RESIDUAL, "velocity": OUTPUT}
PERCENTS = (6, 8, 10, 12, 16, 20, 24, 32, 40, 50, 60, 68, 80, 90)
FIRST = (10, 16, 24, 40, 60)
MOVES, CLIMBS = 200, 20
ROLLOUTS = 250
"""A search on `demo` itself gained nothing after so many. On errors that add up gap by gap, whose optimum is known, 400
come within 1.6 dB of it on average over seeds (5 to 30 of 50 steps), 800 within 0.9 dB."""
HOT, COLD = 0.02, 1e-4
"""First and last temperature of the annealing, in errors of the first mask."""
REACH, FAR_SWAPS, NEAR_SHARE = 3, 2, 0.7
"""Farthest shift; swaps of each computed step that a climb looks at; share of shifts among the moves of annealing."""


def budcache_family(setup: Setup) -> Family:
    """BudCache; every setting searches once, with `ROLLOUTS` of one prompt, as the release does."""
    num = setup.num_steps

    def apply(pipe: Any, settings: Settings) -> Applied:
        point, count, rollouts = POINTS[str(settings["reuse"])], int(settings["computed"]), int(settings["rollouts"])

        def reused(steps: Steps) -> Applied:
            return tabled(pipe, solver_weights(Hold(), num, steps), point)

        def searched() -> Steps:
            goal = sample_latents(pipe, setup.jobs[:1], num, 1)

            def error(steps: Steps) -> float:
                with reused(steps):
                    return float((sample_latents(pipe, setup.jobs[:1], num, 1) - goal).square().mean())

            return search_steps(error, num, count, rollouts)

        return reused(setup.recall(f"BudCache, {settings['reuse']}, {count} steps, {rollouts} rollouts", searched))

    axes = (
        Axis(
            "computed", nearest(range(2, num), [num * p / 100 for p in PERCENTS]), tuple(num * p / 100 for p in FIRST)
        ),
        Axis("rollouts", (ROLLOUTS,), closed=True),
        Axis("reuse", tuple(POINTS), ("residual",), closed=True),
    )
    return Family("BudCache", "arXiv 2606.13496, own implementation", axes, apply, num)


def search_steps(error: Callable[[Steps], float], num_steps: int, count: int, rollouts: int, seed: int = 0) -> Steps:
    """The best `count` steps that `rollouts` different masks show; never worse than the random ones it begins with."""
    rng, known = random.Random(seed), dict[Steps, float]()
    most = min(rollouts, math.comb(num_steps - 1, count - 1))

    def judged(steps: Steps) -> float:
        if steps not in known and len(known) < most:
            known[steps] = error(steps)
        return known.get(steps, math.inf)  # what no rollout is left for is not gone to

    leading = max(1, count // 4)  # of the steps a random mask begins with, as in the release
    while len(known) < most:
        start = (*range(leading), *sorted(rng.sample(range(leading, num_steps), count - leading)))
        _climb(judged, _annealed(judged, start, num_steps, rng), num_steps, rng)
    return min(known, key=lambda steps: (known[steps], steps))


def _annealed(judged: Callable[[Steps], float], here: Steps, num_steps: int, rng: random.Random) -> Steps:
    first = judged(here) or 1.0
    for move in range(MOVES if 1 < len(here) < num_steps else 0):
        there = _moved(here, num_steps, rng)
        worse = (judged(there) - judged(here)) / first
        if worse <= 0 or rng.random() < math.exp(-worse / (HOT * (COLD / HOT) ** (move / MOVES))):
            here = there
    return here


def _moved(steps: Steps, num_steps: int, rng: random.Random) -> Steps:
    """One computed step shifted a little or swapped; the first stays."""
    old = rng.choice(steps[1:])
    free = [new for new in range(1, num_steps) if new not in steps]
    nearby = [new for new in free if abs(new - old) <= REACH]
    return _replaced(steps, old, rng.choice(nearby if nearby and rng.random() < NEAR_SHARE else free))


def _climb(judged: Callable[[Steps], float], here: Steps, num_steps: int, rng: random.Random) -> None:
    """Go to the best neighbour as long as there is a better one."""
    for _ in range(CLIMBS):
        neighbours = _neighbours(here, num_steps, rng)
        best = min(neighbours, key=lambda steps: (judged(steps), steps), default=here)
        if judged(best) >= judged(here):
            return
        here = best


def _neighbours(here: Steps, num_steps: int, rng: random.Random) -> list[Steps]:
    free = [new for new in range(1, num_steps) if new not in here]
    found = []
    for old in here[1:]:
        far = rng.sample(free, min(FAR_SWAPS, len(free)))
        found += [_replaced(here, old, new) for new in free if abs(new - old) <= REACH or new in far]
    return found


def _replaced(steps: Steps, old: int, new: int) -> Steps:
    return tuple(sorted({*steps, new} - {old}))

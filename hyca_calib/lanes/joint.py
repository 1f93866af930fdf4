"""Lanes, their starts and what they compute, chosen together: for so many devices and so long a wait, by a surrogate.

Lanes in lock-step wait for the slowest call of a pass. A pass on which any lane computes costs a computed evaluation,
so all that are on it compute; the others cost what a forecast evaluation does. What is chosen is therefore where the
lanes begin and the passes on which all compute, one budget for each lane following from both.

The surrogate is that of `surrogate`, with forecasts in it: on other passes the network says what the best weights make
of what the lane was told on the passes before. Weights are by least squares on the Gram matrix, one for each output:
real rows have one for every channel, which they are the better for in all candidates alike.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hyca_calib.lanes.surrogate import Array, Reaction, exact_states, first_guess, said
from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers import AfterHits, Lanes
from hyca_runtime.samplers.chords import Chords

DEPTH, RIDGE = 3, 1e-6
DENSER = (1.0, 1.5, 2.0)
"""How beginnings spread their heavy passes: evenly, and ever denser towards the end."""
DESCENTS = 3
"""Beginnings that a search descends from, the best."""
SHIFTS = (-4, -2, -1, 1, 2, 4)


@dataclass(frozen=True)
class Wall:
    """How long one sample may take.

    Attributes:
        evaluations: that are computed one after another, or what takes as long.
        forecast: what a pass on which all is forecast costs, of one that is computed.
    """

    evaluations: float
    forecast: float = 0.0

    def heavy(self, passes: int) -> int:
        """On how many of so many passes lanes may compute."""
        return min(passes, int((self.evaluations - self.forecast * passes) / (1 - self.forecast) + 1e-9))

    def spent(self, passes: int, heavy: int) -> float:
        """What passes cost of which so many are computed."""
        return heavy + self.forecast * (passes - heavy)


@dataclass(frozen=True)
class Joint:
    """Lanes, and what they compute.

    Attributes:
        heavy: passes up to the fast lane's end, counted from 0, on which all lanes compute; the first of each lane are
            among them.
    """

    lanes: Lanes
    heavy: frozenset[int]

    @cached_property
    def passes(self) -> int:
        """Until the fast lane has its sample."""
        return self.lanes.passes(1)

    def steps(self, lane: int) -> tuple[int, ...]:
        """The steps that a lane computes."""
        steps = (self.lanes.step(lane, number + 1) for number in sorted(self.heavy))
        return tuple(step for step in steps if step is not None)


def joint_error(reaction: Reaction, joint: Joint, depth: int = DEPTH) -> float:
    """Squared error of the fast lane's sample, as the surrogate has it."""
    return float(np.mean([_error(reaction, slope, joint, depth) for slope in reaction.slopes]))


def _error(reaction: Reaction, slope: Array, joint: Joint, depth: int) -> float:
    exact, told = exact_states(reaction.sampler), dict[int, list[Tensor]]()
    chords = Chords(joint.lanes, reaction.sampler, exact[0], AfterHits(1))
    while not chords.done:
        outputs = dict[int, Tensor]()
        for lane, core in chords.live.items():
            truth, past = said(slope, exact, core.step, core.latents), told.setdefault(lane, [])
            if chords.passes in joint.heavy or not past:
                past.insert(0, truth)
                outputs[lane] = truth
            else:
                outputs[lane] = _forecast(reaction.gram, past[:depth], truth)
        chords.advance(outputs)
    wrong = (chords.result - exact[-1])[0].double().numpy()
    return float(wrong @ reaction.gram @ wrong)


def _forecast(gram: Array, past: Sequence[Tensor], truth: Tensor) -> Tensor:
    """The best weighted sum of what was said."""
    known = torch.cat(list(past)).numpy()
    weighed = known @ gram
    alike = weighed @ known.T
    ridge = RIDGE * np.trace(alike) / len(known) * np.eye(len(known))
    weights = np.linalg.solve(alike + ridge, weighed @ truth[0].numpy())
    return torch.from_numpy(weights @ known)[None]


@dataclass
class Search:
    """The best lanes for a number of devices and a wall, by the surrogate; local search from several beginnings.

    Attributes:
        tries: candidates that are judged at most, for each number of lanes.
        on_progress: told how many were, and the best error so far.
    """

    reaction: Reaction
    wall: Wall
    tries: int = 300
    seed: int = 0
    on_progress: Callable[[int, float], None] = lambda tried, error: None
    _known: dict[Joint, float] = field(default_factory=dict)

    def best(self, count: int) -> tuple[Joint, float]:
        """The best for exactly so many lanes, and its error.

        Raises:
            SamplerError: the wall is too low even for all lanes to begin.
        """
        self._known.clear()
        beginnings = list(self._beginnings(count))
        if not beginnings:
            told = f"{count} lanes compute on {count} passes before all have begun"
            raise SamplerError(f"{told}; a wall of {self.wall.evaluations:g} is lower")
        shuffle = random.Random(self.seed)
        for here in sorted(beginnings, key=self._judged)[:DESCENTS]:
            self._descend(here, shuffle)
        best = min(self._known, key=self._judged)
        return best, self._judged(best)

    def _descend(self, here: Joint, shuffle: random.Random) -> None:
        """Go to something better a move away, as long as there is."""
        while len(self._known) < self.tries:
            moves = list(self._moves(here))
            shuffle.shuffle(moves)
            found = next((move for move in moves if self._judged(move) < self._judged(here) * (1 - 1e-9)), None)
            if found is None:
                return
            here = found

    def _judged(self, joint: Joint) -> float:
        if joint not in self._known:
            if len(self._known) >= self.tries:
                return float("inf")
            self._known[joint] = joint_error(self.reaction, joint)
            self.on_progress(len(self._known), min(self._known.values()))
        return self._known[joint]

    def _beginnings(self, count: int) -> Iterator[Joint]:
        steps = self.reaction.sampler.num_steps
        for last in sorted({0} if count == 1 else {max(count - 1, steps * share // 16) for share in (1, 2, 4, 8, 11)}):
            lanes = Lanes(steps, (0,) if count == 1 else first_guess(count, steps, last))
            passes, allowed = lanes.passes(1), self.wall.heavy(lanes.passes(1))
            for power in DENSER if allowed >= count else ():
                left = np.linspace(1, 0, allowed - count + 1)[1:] ** power
                spread = (passes - 1 - left * (passes - count)).round().astype(int).tolist()
                if (found := self._with(lanes, frozenset(spread))) is not None:
                    yield found

    def _with(self, lanes: Lanes, heavy: frozenset[int]) -> Joint | None:
        """Lanes with as many heavy passes as the wall allows, these as far as they fit."""
        passes, begun = lanes.passes(1), len(lanes)
        allowed = self.wall.heavy(passes)
        if allowed < begun:
            return None
        kept = sorted(number for number in heavy if begun <= number < passes)[: allowed - begun]
        free = [number for number in range(begun, passes) if number not in kept]
        return Joint(lanes, frozenset({*range(begun), *kept, *free[: allowed - begun - len(kept)]}))

    def _moves(self, joint: Joint) -> Iterator[Joint]:
        lanes, begun = joint.lanes, len(joint.lanes)
        for number in range(1, begun):
            for shift in SHIFTS:
                starts = [*lanes.starts]
                starts[number] += shift
                bounds = (*starts, lanes.num_steps)
                if bounds[number - 1] < bounds[number] < bounds[number + 1]:
                    found = self._with(Lanes(lanes.num_steps, tuple(starts)), joint.heavy)
                    if found is not None:
                        yield found
        for number in sorted(joint.heavy):
            for shift in SHIFTS:
                if number >= begun and begun <= number + shift < joint.passes and number + shift not in joint.heavy:
                    yield Joint(lanes, joint.heavy - {number} | {number + shift})

"""A searched schedule whose computed steps move with what each of them tells: ours, not published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, LearningPolicy, Surprises, register_policy
from hyca_runtime.schedule import COMPUTE, Action, Schedule

MEMORY = 0.5
"""Weight of the newest surprise in the mood."""
FURTHEST = 3.0
"""Spreads that a surprise counts at most."""
LEAST = 2
"""Computed steps from which a forecast says something: one is reuse."""
NEARLY = 1e-6
MOST_RESPONSE = 100.0
"""Far beyond what is of use; its powers of e are still numbers."""


class Paced(NamedTuple):
    """What is remembered of a run.

    Attributes:
        position: the step that was decided about last, -1 before the first, and whether it was computed.
        last: the latest computed step, how far it was from the one before, and how many there were before.
        debt: what forecast steps added since then.
        mood: how surprising computed steps were of late, in spreads; 0 is usual.
        told: the latest of them.
        calm: the mood before the latest of them, and how far off that was, by the most surprised of its calls.
    """

    position: float = -1.0
    computed: bool = False
    last: float = -1.0
    gap: float = 1.0
    before: int = -1
    debt: float = 0.0
    mood: float = 0.0
    told: float = -1.0
    calm: float = 0.0
    away: float = 0.0


@register_policy
@dataclass(frozen=True)
class PacedBySurprise(LearningPolicy):
    r"""Computes once the steps since the latest computed one have added up to `threshold`.

    Step t adds :math:`p_t e^{r m}`, with its pace :math:`p_t`, the response r and the mood m: the moving average of
    :math:`(\log u - \log \bar u) / s`, where u is how far a forecast of a computed step was off, relatively, s the
    spread of its logarithm, and what is usual at step t after a gap of g steps is

    .. math:: \log \bar u = l_t + q \log g.

    Guidance branches are computed on the same steps. A batch is as surprised as its most surprised sample. With
    response 0 all samples follow the same schedule, and with threshold 0 every step is computed.

    Args:
        pace: of every step, 0 or more.
        response: r, from 0 to `MOST_RESPONSE`.
        level: l of every step, or one for all.
        power: q.
        spread: s.
    """

    threshold: float
    pace: tuple[float, ...]
    response: float = 0.0
    level: tuple[float, ...] = (0.0,)
    power: float = 1.0
    spread: float = 1.0
    name: ClassVar[str] = "paced_by_surprise"
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pace", tuple(self.pace))
        object.__setattr__(self, "level", tuple(self.level))
        if not self.level:
            raise ValueError(f"{self.name}: level must be of every step, or one for all, got none")
        numbers = {"threshold": self.threshold, "response": self.response, "pace": min(self.pace, default=-1.0)}
        for label, number in numbers.items():
            if not number >= 0:
                raise ValueError(f"{self.name}: {label} must be 0 or more, got {number}")
        if self.response > MOST_RESPONSE:
            raise ValueError(f"{self.name}: response must be at most {MOST_RESPONSE:g}, got {self.response}")
        if not self.spread > 0:
            raise ValueError(f"{self.name}: spread must be above 0, got {self.spread}")

    def begin(self) -> Paced:
        return Paced()

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del evidence
        now = state if moment.position == state.position else self._moved(state, moment)
        return (COMPUTE if now.computed else self.forecasts(schedule)), now

    def _moved(self, state: Paced, moment: Moment) -> Paced:
        """The state at a new step."""
        here = moment.position
        pace = self.pace[min(round(here), len(self.pace) - 1)] * (here - state.position)
        debt = state.debt + pace * math.exp(self.response * state.mood)
        if state.before < 0 or debt >= self.threshold - NEARLY:
            return Paced(here, True, here, here - state.last, state.before + 1, 0.0, state.mood)
        return state._replace(position=here, computed=False, debt=debt)

    def learn(self, state: Any, moment: Moment, surprises: Surprises) -> Any:
        told = [number for numbers in surprises.values() for number in numbers]
        off = max((math.inf if math.isnan(number) else number for number in told), default=0.0)
        if state.before < LEAST or not off > 0:
            return state
        seen = math.log(off) if math.isfinite(off) else math.inf
        away = (seen - self.usual(moment.position, state.gap)) / self.spread
        away, calm = max(-FURTHEST, min(FURTHEST, away)), state.mood
        if state.told == moment.position:  # by a call of another guidance branch
            away, calm = max(away, state.away), state.calm
        return state._replace(mood=calm + MEMORY * (away - calm), told=moment.position, calm=calm, away=away)

    def usual(self, position: float, gap: float) -> float:
        """The logarithm of what is usual at a step, after a gap of so many."""
        return self.level[min(round(position), len(self.level) - 1)] + self.power * math.log(gap)

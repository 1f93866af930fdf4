"""Whether pictures are as good as the full run's: two one-sided tests against a margin chosen beforehand.

That no difference is seen does not show that there is none. So the question is turned round (Schuirmann 1987): a run is
*as good* only if the interval of every mark's mean difference lies within a margin, and the margin is what the mildest
of some deliberate damages does. It was measured once, on pictures of the fit split, and is kept beside the judges.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from hyca_calib.bench.marks import CONFIDENCE
from hyca_calib.demo.judge import WEIGHTS
from hyca_calib.quality.metrics import interval_ends, resampled_means

Array = NDArray[np.float64]
Outcome = Literal["as good", "worse", "cannot tell"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Marks = Mapping[str, tuple[float, ...]]
"""By name, the values of every sample; see `hyca_calib.bench.marks`."""
LEVEL = 0.05
"""How often a test may err."""
RESAMPLES = 4000
LEAST_GROUPS = 8
"""With fewer, all of them may point one way by chance, and a bootstrap would not know."""


@dataclass(frozen=True)
class Departure:
    """How far a mark is from the full run's, mean over the samples.

    Attributes:
        mean, low, high: of run minus full run, and the interval of the two one-sided tests (90 % at a level of 5 %).
        margin: largest departure that passes; None where no damage shows what it would be, of too few prompts, or
            without a value.
        shown: whether it is worse than the full run's, at a level that all marks share.
    """

    mark: str
    mean: float
    low: float
    high: float
    margin: float | None
    shown: bool

    @property
    def within(self) -> bool:
        """Whether the tests show it within the margin; more confidence is no fault."""
        if self.margin is None:
            return False
        return self.low > -self.margin and (self.mark == CONFIDENCE or self.high < self.margin)


@dataclass(frozen=True)
class PictureDamage:
    """One way of damaging pictures.

    Attributes:
        level: PSNR to the full run that was aimed at, dB.
        psnr_db: what it is, mean over the samples.
        strength: standard deviation of the blur in pixels, or of the noise; or the number of steps.
    """

    kind: str
    level: float
    psnr_db: float
    strength: float


@dataclass(frozen=True)
class Effect:
    """What a damage does to the marks."""

    damage: PictureDamage
    departures: tuple[Departure, ...]


@dataclass(frozen=True)
class Margins:
    """What a departure must stay below, for one model: as much as the mildest damage changes.

    For every kind of damage the change at the first of 30, 25 and 20 dB where one is shown, the least over the kinds; a
    damage that ends up more than 1 dB above 30 dB does not count. None if no damage shows a change.

    Attributes:
        detail: in dB, for every scale and for flicker, from the one that a damage changes most.
        confidence: a loss in nats as large as a change either way, for blur and fewer steps can make a picture plainer.
        source: which pictures those are.
    """

    model: str
    detail: float | None
    confidence: float | None
    effects: tuple[Effect, ...] = ()
    source: str = ""

    def of(self, mark: str) -> float | None:
        """The margin of one mark."""
        return self.confidence if mark == CONFIDENCE else self.detail


def departures(
    found: Marks, full: Marks, margins: Margins | None = None, groups: Sequence[int] | None = None, seed: int = 0
) -> tuple[Departure, ...]:
    """How far every mark of a run is from the full run's, by a bootstrap of whole groups."""
    if found.keys() != full.keys():
        raise ValueError(f"marks {sorted(found)} against {sorted(full)}; measure both runs alike")
    if not full:
        return ()
    names = list(full)
    apart = np.stack([np.subtract(found[name], full[name]) for name in names], axis=1)
    blind = np.isnan(apart).all(axis=0)
    apart[:, blind] = 0
    labels = range(len(apart)) if groups is None else groups
    count = len(set(labels))
    draws = resampled_means(apart, labels, RESAMPLES, seed)
    # the interval of each mark's own tests, and the one of tests that all marks share, at either side
    near, far = (interval_ends(draws, tail, count) for tail in (LEVEL, LEVEL / len(names) / 2))
    rows = []
    for i, name in enumerate(names):
        worse = far[1, i] < 0 or (far[0, i] > 0 and name != CONFIDENCE)
        enough = count >= LEAST_GROUPS and not blind[i]
        margin = margins.of(name) if margins and enough else None
        mean, low, high = (float(x) for x in (np.nanmean(apart[:, i]), *near[:, i]))
        rows.append(Departure(name, mean, low, high, margin, bool(worse) and enough))
    return tuple(rows)


def outcome(found: Sequence[Departure]) -> Outcome:
    """What departures show: as good only if every mark is within its margin; else worse, if any is shown to be.

    A departure within the margin may be certain and still pass. As all marks must pass, each is tested at the full
    level; as one is enough to fail, those tests share it (Bonferroni).
    """
    if found and all(d.within for d in found):
        return "as good"
    return "worse" if any(d.shown for d in found) else "cannot tell"


def load_margins(model: str) -> Margins | None:
    """The margins kept for an embedded model, None if there are none."""
    path = WEIGHTS / f"{model}-margins.json"
    return TypeAdapter(Margins).validate_python(json.loads(path.read_text())["margins"]) if path.exists() else None

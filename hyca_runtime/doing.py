"""What one call of a network does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from hyca_runtime.attach.bound_point import Captured, Keeper
from hyca_runtime.attach.late import Decide, Staged
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.feature import Feature
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.schedule import DEFAULT, Action
from hyca_runtime.stacked import Arguments, parted
from hyca_runtime.variant import OWN, Weights


class Doing(NamedTuple):
    """A call that is decided about before it begins.

    Attributes:
        capture: points whose features are captured.
        inject: features that are forecast.
        keep: told the captured features.
        weights: that run.
    """

    capture: tuple[str, ...]
    inject: dict[str, Feature]
    keep: Keeper | None
    weights: Weights = OWN


NOTHING = Doing((), {}, None)
"""The network is computed, and nothing is remembered of it."""


class Later(NamedTuple):
    """A call that forecasts a point on its way, after so many blocks; and who is told the features if it does not.

    It may decide about a span before.
    """

    blocks: int
    decide: Decide | Staged
    keep: Keeper
    name: str
    weights: Weights = OWN


Apart = list[tuple[int, Arguments, Callable[[], Doing | Later]]]
"""Parts of a call's batch, by number, in the order in which they run; what each does is asked when it is its turn."""


def weights_of(action: Action, plan: CompiledPlan, track: RunTracker) -> Weights:
    """Which weights an action runs at the step of a run."""
    if action.variant == DEFAULT:
        return OWN
    position, schedule = track.position, plan.section(track).schedule
    step = int(position) if float(position).is_integer() else None
    return Weights(action.variant, step, schedule.turn(action.variant, position))


def together(parts: Sequence[Doing | Later], order: Sequence[int]) -> Doing | None:
    """What a call does whose parts do so; None if that is not the same for all.

    Args:
        order: in which they are told their features.
    """
    doings = [part for part in parts if isinstance(part, Doing)]
    alike = len({(doing.capture, *doing.inject, doing.keep is None, doing.weights) for doing in doings}) == 1
    if not alike or len(doings) < len(parts):
        return None
    first, pieces = doings[0], {name: [doing.inject[name] for doing in doings] for name in doings[0].inject}
    inject = {name: Feature(map(torch.cat, zip(*of, strict=True)), of[0].form) for name, of in pieces.items()}
    keepers = [doing.keep for doing in doings if doing.keep is not None]
    return Doing(first.capture, inject, partial(_tell_apart, keepers, order) if keepers else None, first.weights)


def _tell_apart(keepers: Sequence[Keeper], order: Sequence[int], captured: Captured) -> None:
    """Tell each part of a call's batch its own features."""
    pieces = {name: parted(feature, len(keepers)) for name, feature in captured.items()}
    for number in order:
        keepers[number]({name: piece[number] for name, piece in pieces.items()})

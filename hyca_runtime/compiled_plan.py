"""What one plan asks of one network: when to predict, and with which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from hyca_runtime.adaptive import AdaptiveGroups, adaptive_groups
from hyca_runtime.errors import PlanError, PlanMismatchError
from hyca_runtime.feature import Feature, widths
from hyca_runtime.history import History, Past
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.placed_weights import PlacedWeights
from hyca_runtime.policies import ProbingPolicy
from hyca_runtime.probes import tensors_held
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.schedule import Action
from hyca_runtime.solvers import Aligned, TapTable, solver_from_spec
from hyca_runtime.variant import merged_variants

OnMismatch = Literal["compute", "adapt", "error"]


NO_PAST = Past((), (), [])

Terms = list[tuple[Past | None, tuple[Tensor, ...]]]
"""Pasts with their weights, and a constant as None."""


class CompiledPlan:
    """The sections of a plan for one network, ready for use.

    Args:
        name: of the plan, for messages.
        sections: one for each time grid.
        on_mismatch: what runs on other grids do.

    Raises:
        PlanError: there is no such way with runs on other grids.
    """

    def __init__(self, name: str, sections: Sequence[NetworkPlan], on_mismatch: OnMismatch) -> None:
        if on_mismatch not in get_args(OnMismatch):
            raise PlanError(f"on_mismatch: expected one of {', '.join(get_args(OnMismatch))}, got {on_mismatch!r}")
        self.name, self.sections, self.on_mismatch = name, tuple(sections), on_mismatch
        self.adapts = on_mismatch == "adapt"
        self.points = self.sections[0].places
        self.chunks = self.sections[0].chunks
        self.variants = merged_variants(section.variants for section in self.sections)
        self.depths = {name: max(self._depth(s, name) for s in self.sections) for name in self.points}
        self._adaptive: dict[tuple[int, str, str], tuple[AdaptiveGroups, ...]] = {}
        self._weights = PlacedWeights()
        self._starts = sorted({section.from_chunk or 0 for section in self.sections})
        self._of_chunks: dict[int, CompiledPlan] = {}

    def at_chunk(self, chunk: int | None) -> CompiledPlan:
        """The plan with the sections that a chunk follows alone; itself where those are all."""
        if len(self._starts) == 1:
            return self
        start = max(of for of in self._starts if of <= (chunk or 0))
        if start not in self._of_chunks:
            sections = [section for section in self.sections if (section.from_chunk or 0) == start]
            self._of_chunks.setdefault(start, CompiledPlan(self.name, sections, self.on_mismatch))
        return self._of_chunks[start]

    def check_like(self, own: CompiledPlan) -> None:
        """Whether a network that was made ready for another plan can follow this one.

        Raises:
            PlanMismatchError: it is cached at other points, or has variants that were not made.
        """
        if self.points != own.points:
            here, there = (", ".join(f"'{point}'" for point in of.points.values()) for of in (self, own))
            raise PlanMismatchError(
                f"plan {self.name!r} is cached at {here}, the session at {there}; apply it on its own"
            )
        if self.chunks != own.chunks:
            raise PlanMismatchError(f"plan {self.name!r} has other chunks than the session; apply it on its own")
        if not self.variants.items() <= own.variants.items():
            raise PlanMismatchError(f"plan {self.name!r} has variants that the session lacks; apply it on its own")

    def _depth(self, section: NetworkPlan, name: str) -> int:
        return max(section.depth(name), section.points[name].free_depth if self.is_free(section) else 1)

    def is_free(self, section: NetworkPlan) -> bool:
        """Whether runs may meet histories that the plan has no rows for; closed forms forecast there."""
        return self.adapts or section.policy is not None

    def numbers_held(self) -> int | None:
        """Numbers of features held for each sample at most; None where the plan does not say."""
        total, probes = 0, max(tensors_held(section.decider) for section in self.sections)
        for name, depth in self.depths.items():
            sizes = [section.points[name].numel for section in self.sections]
            known = [size for size in sizes if size is not None]
            if not known:
                return None
            total += (depth + probes) * max(known)
        return total

    def follows(self, track: RunTracker) -> bool:
        """Whether a run is on the plan, or adapted to it."""
        return not track.off_grid or self.adapts

    def section(self, track: RunTracker) -> NetworkPlan:
        """The section whose grid a run is held against."""
        return self.sections[track.at]

    def probes(self, track: RunTracker) -> int:
        """After how many blocks a call is to be decided about; 0 if that is done before it begins."""
        return 0 if track.undecided else self.section(track).probes

    def behind(self, track: RunTracker) -> ProbingPolicy | None:
        """Who decides in a second stage, if there is one."""
        decider = self.section(track).decider
        return decider.behind if isinstance(decider, ProbingPolicy) else None

    def leads(self, track: RunTracker, action: Action) -> int:
        """After how many blocks of a call an action makes its forecast, 0 if before it begins."""
        return self.section(track).leads.get(action, 0)

    def makes_up(self, track: RunTracker, branch: str, previous: float) -> bool:
        """Whether a step that the plan forecasts is computed because its stream was not called on those before."""
        if track.off_grid or track.undecided or track.position <= previous + 1:
            return False
        return not self.section(track).schedule.actions(branch)[int(track.position)].computes

    def kept(self, track: RunTracker, action: Action) -> tuple[str, ...]:
        """The points whose features a call with this action makes."""
        section = self.section(track)
        return tuple(name for name in self.points if section.keeps(action, name))

    def weights(self, track: RunTracker, name: str, branch: str, history: History | Past) -> tuple[Tensor, ...] | None:
        """Weights of a forecast for each part of a point, on its device; None if the history is not what they take."""
        section, past = self.section(track), history.positions
        taps = self._exact(track, name, branch, past)
        if not past or (taps is None and not self.is_free(section)):
            return None
        used, axis = past if taps is None else taps.history, section.points[name].at.channel_axis

        def rows() -> np.ndarray:
            return section.weights_at(used, track.position, name, branch) if taps is None else taps.weights

        found = self._weights.get((id(section), name, branch, track.position, used), rows, history, axis)
        adaptive = self._adaptive_groups(section, name, branch) if taps is not None else ()
        if not adaptive or not isinstance(history, History):
            return found
        return self._adapted(found, adaptive, section, track.position, history)

    def weights_beside(
        self, track: RunTracker, name: str, branch: str, pasts: Mapping[tuple[str, str], Past]
    ) -> Terms | None:
        """What is weighed beside the own past of a branch; None if a past lacks features.

        Of a branch whose own past is not what the plan's own weights take, for which closed forms serve, that is only
        the one it is kept against.

        Args:
            pasts: by point and guidance branch.

        Raises:
            PlanMismatchError: features of both points have other shapes.
        """
        section, own, found = self.section(track), pasts[name, branch], Terms()
        axis, lead = section.points[name].at.channel_axis, section.points[name].against.get(branch)
        if lead is not None:
            base = self._now(track, name, lead, pasts) if own.is_like(pasts.get((name, lead), NO_PAST)) else None
            if base is None:
                return None
            found += base
        if self._exact(track, name, branch, own.positions) is None:
            return found
        for number, (source, table) in enumerate(section.sources(name, branch)):
            taps = table[int(track.position)]
            past = own if source.is_constant else pasts.get(source.read_for(name, branch), NO_PAST)
            past = past.before(track.position, source.live)
            if not source.is_constant and past.positions[: len(taps.history)] != taps.history:
                return None
            if not own.is_like(past):
                if source.is_own(branch):
                    raise PlanMismatchError(self._told_shapes(name, own, str(source.point), past))
                return None
            key = (id(section), name, branch, track.position, number)
            weights = self._weights.get(key, partial(getattr, taps, "weights"), past, axis)
            found.append((None if source.is_constant else past, weights))
        return found

    def _now(self, track: RunTracker, name: str, branch: str, pasts: Mapping[tuple[str, str], Past]) -> Terms | None:
        """What a branch has at a point on the very step: its feature, or what is forecast of it where that is older."""
        section, past = self.section(track), pasts[name, branch]
        if past.positions[:1] == (track.position,):
            ones = partial(np.ones, (1, section.points[name].num_channels), np.float32)
            axis = section.points[name].at.channel_axis
            return [(past, self._weights.get((id(section), name, branch, "now"), ones, past, axis))]
        weights, beside = self.weights(track, name, branch, past), self.weights_beside(track, name, branch, pasts)
        return None if weights is None or beside is None else [(past, weights), *beside]

    def _told_shapes(self, name: str, own: Past, other: str, past: Past) -> str:
        mine, theirs = ([tuple(buffer.shape[1:]) for buffer in of.buffers] for of in (own, past))
        return (
            f"plan {self.name!r} weighs {other!r} in forecasts of {name!r}, but features there have shapes {theirs}, "
            f"not {mine}; weigh a point with tensors of the same shapes"
        )

    def _exact(self, track: RunTracker, name: str, branch: str, past: Sequence[float]) -> TapTable | None:
        """The plan's own weights, if a history is what they take."""
        taps = None if track.off_grid else self.section(track).taps(name, branch).get(int(track.position))
        return taps if taps is not None and past[: len(taps.history)] == taps.history else None

    def aligned(self, track: RunTracker, name: str, branch: str) -> Aligned | None:
        """The solver of a point that reads the probe, if there is one."""
        groups = self.section(track).points[name].groups_of(branch)
        solver = solver_from_spec(groups[0].solver) if groups[0].solver.name == Aligned.name else None
        return solver if isinstance(solver, Aligned) else None

    def _adaptive_groups(self, section: NetworkPlan, name: str, branch: str) -> tuple[AdaptiveGroups, ...]:
        key = (id(section), name, branch)
        if key not in self._adaptive:
            forecast = section.points[name]
            self._adaptive[key] = adaptive_groups(forecast.solvers(branch), forecast.at.channel_axis)
        return self._adaptive[key]

    @staticmethod
    def _adapted(
        weights: tuple[Tensor, ...],
        adaptive: Sequence[AdaptiveGroups],
        section: NetworkPlan,
        position: float,
        history: History,
    ) -> tuple[Tensor, ...]:
        """`weights` of a step of the plan, with the rows of groups that read the features."""
        axis_times = section.grid.axis_times
        times = np.array([axis_times[int(p)] for p in history.positions[: len(weights[0])]])
        for groups in adaptive:
            weights = groups.adapt(weights, history, times, axis_times[int(position)])
        return weights

    def check_feature(self, section: NetworkPlan, name: str, feature: Feature) -> None:
        """Raises PlanMismatchError if a feature does not have the plan's channels at its point."""
        forecast = section.points[name]
        axis, fewest = forecast.at.channel_axis, min(part.ndim for part in feature)
        got = sum(widths(feature, axis)) if -fewest <= axis < fewest else 0
        if got != forecast.num_channels:
            raise PlanMismatchError(
                f"plan {self.name!r} is for {forecast.num_channels} channels at the point '{forecast.at}', "
                f"the network has {got} there; trace and search this model again"
            )

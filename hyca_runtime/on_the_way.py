"""What a call decides, or forecasts, when some of its blocks have run."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from hyca_runtime.attach.late import Probe, Staged
from hyca_runtime.complaints import Complain, tell_of_miss
from hyca_runtime.doing import Later, weights_of
from hyca_runtime.feature import Feature
from hyca_runtime.forecasting import forecast_action
from hyca_runtime.lane import Lane
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies import ProbingPolicy
from hyca_runtime.probes import ProbeMemory
from hyca_runtime.schedule import Action
from hyca_runtime.stream_state import Turn

Place = tuple[int, str] | tuple[int, str, str]
"""After how many blocks the point of which name is forecast, and of which span before it is decided about, too."""


def places_on_the_way(section: NetworkPlan) -> list[Place]:
    """Where calls of a section decide or forecast on their way."""
    if not section.probes:
        return [(blocks, action.forecast[0]) for action, blocks in section.leads.items() if blocks]
    *spans, name = section.points
    return [(section.points[name].at.leading, name, spans[0]) if spans else (section.probes, name)]


class OnTheWay:
    """One call of a branch that decides, or forecasts, on its way.

    Args:
        thread: its number.
        complain: told why a step is not done as the plan says.
    """

    def __init__(self, lane: Lane, turn: Turn, thread: int, complain: Complain) -> None:
        self._lane, self._turn, self._thread, self._complain = lane, turn, thread, complain
        self._made: dict[str, Feature] = {}

    def forecasting(self, action: Action) -> Later:
        """A call that forecasts, as was decided before it began."""
        plan = self._lane.plan
        keep = self._lane.remember(self._turn.state, plan.adapts)
        blocks, forecast = plan.leads(self._lane.track, action), partial(self._forecast, action)
        return Later(blocks, forecast, keep, action.forecast[0], weights_of(action, plan, self._lane.track))

    def probing(self) -> Later:
        """A call that decides by what its blocks make."""
        section = self._lane.plan.section(self._lane.track)
        keep = self._lane.remember(self._turn.state)
        ((blocks, name, *spans),) = places_on_the_way(section)
        if not spans:
            return Later(blocks, partial(self._decide, name), keep, name)
        staged = Staged(spans[0], partial(self._decide_on_span, spans[0]), partial(self._decide, name))
        return Later(blocks, staged, keep, name)

    def _decide_on_span(self, name: str, probe: Probe) -> Feature | None:
        """The forecast of a span, or None to compute it and ask about what is behind."""
        state, added = self._turn.state, probe.reached - probe.entered
        action = self._chosen(state.probes, probe, added, None)
        if name in action.forecast:
            self._made = self._forecasts(action, None)
        if not self._made and not self._lane.track.ends:
            state.probes.keep(added)
        return self._made.get(name)

    def _decide(self, name: str, probe: Probe) -> Feature | None:
        """The forecast of what is behind the probe, or None to compute it."""
        if name in self._made:  # together with the span
            return self._made[name]
        state, added = self._turn.state, probe.reached - probe.entered
        stage = self._lane.plan.behind(self._lane.track)
        probes = state.probes if stage is None else state.probes_behind
        found = self._or_computes(self._chosen(probes, probe, added, stage), name, added, keeps=True)
        if found is None and not self._lane.track.ends:
            probes.keep(added)
        return found

    def _forecast(self, action: Action, probe: Probe) -> Feature | None:
        """The forecast of what is behind the leading blocks, or None to compute it."""
        self._lane.note(self._turn.state, probe.leading)
        return self._or_computes(action, action.forecast[0], None, keeps=self._lane.plan.adapts)

    def _or_computes(self, action: Action, name: str, added: Tensor | None, keeps: bool) -> Feature | None:
        made = {} if action.computes else self._forecasts(action, added)
        if not made:
            whole = Action(variant=action.variant)
            self._lane.computes(self._turn.state, whole, keeps, fills_cache=False)
        return made.get(name)

    def _forecasts(self, action: Action, added: Tensor | None) -> dict[str, Feature]:
        """The features of an action; none, and that is told, where they cannot be made."""
        lane, turn = self._lane, self._turn
        found = forecast_action(lane, turn.state, turn.call, action, added)
        if found is None:
            tell_of_miss(self._complain, lane, turn.call.branch, turn.state.cause)
        return found or {}

    def _chosen(self, probes: ProbeMemory, probe: Probe, added: Tensor, stage: ProbingPolicy | None) -> Action:
        """What the plan's policy says of a probe, or a stage of it."""
        asked = stage or self._lane.plan.section(self._lane.track).decider
        evidence = self._turn.state.measure(asked, probes, probe.reached, added)
        return self._lane.decide(self._turn, self._thread, evidence, stage)

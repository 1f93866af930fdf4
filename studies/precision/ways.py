"""Plans that cost as many bit operations, made in different ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.searching import search_plans
from hyca_calib.search.action_costs import action_bits
from hyca_calib.search.cachequant.section import cached_section
from hyca_calib.search.cachequant.site import Site
from hyca_calib.search.precision.variants import with_roundings
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import CACHEQUANT
from hyca_runtime import Plan, load_plan
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import Action, Schedule

CACHE, NAIVE, CORRECTED, JOINT = "cache only", "both, naively", "cachequant", "joint search"
NAIVE_IN_TURN = "both, roundings in turn"
QUANTISED, IN_TURN = "int8 only", "int8 only, roundings in turn"
ALONE = (QUANTISED, IN_TURN)
"""Ways that save what they save, whatever is asked."""


@dataclass(frozen=True)
class Ways:
    """What all ways need.

    Attributes:
        trace: where the trace is.
        limits: of the searches, without precision or preset.
        folder: where plans are kept; those that are there are not made again.
        site: of the network, in int8.
    """

    problem: Problem
    trace: str
    limits: SearchLimits
    folder: Path
    site: Site

    @property
    def low_share(self) -> float:
        """Bit operations of a step that is computed in int8, over those in the network's own precision."""
        full, low, _ = self.site.costs("bitops")
        return low / full

    def plan(self, way: str, ratio: float) -> Plan | None:
        """The plan of a way that saves so much; None where it cannot: int8 alone saves what it saves, and less than
        that leaves nothing to cache beside it.

        Raises:
            BudgetError: the way cannot save so much.
        """
        makers: Mapping[str, Callable[[float], Plan | None]] = {
            CACHE: lambda r: self._searched("cache", f"{r:g}x"),
            QUANTISED: lambda _: self._quantised(self.site),
            IN_TURN: lambda _: self._quantised(self._in_turn()),
            NAIVE: lambda r: self._naive(r, self.site),
            NAIVE_IN_TURN: lambda r: self._naive(r, self._in_turn()),
            CORRECTED: lambda r: self._cachequant(f"{r:g}x bitops"),
            JOINT: lambda r: self._searched("joint", f"{r:g}x bitops", precision="int8"),
        }
        return makers[way](ratio)

    def _cachequant(self, budget: str) -> Plan:
        """The preset's, which is searched by nothing that the limits of others are for."""
        return self._made("cachequant", budget, SearchLimits(preset=CACHEQUANT, model=self.limits.model))

    def _searched(self, name: str, budget: str, **options: Any) -> Plan:
        return self._made(name, budget, replace(self.limits, **options))

    def _made(self, name: str, budget: str, limits: SearchLimits) -> Plan:
        out = self.folder / f"{name}-{budget.replace(' ', '')}"
        (path,) = search_plans(budget, [self.trace], limits, out)
        return load_plan(path)

    def _quantised(self, site: Site) -> Plan:
        problem = replace(self.problem, variants=site.variants)
        section = cached_section(problem, site, range(problem.trace.num_steps))
        return Plan(name=QUANTISED, sections=(section,))

    def _in_turn(self) -> Site:
        """The site as a joint search has it."""
        known = self.site.variants
        specs = {name: with_roundings(spec, self.limits.roundings) for name, spec in known.specs.items()}
        return replace(self.site, variants=replace(known, specs=specs))

    def _naive(self, ratio: float, site: Site) -> Plan | None:
        """The best plan of the network's own precision that is as cheap once all that it computes is in int8."""
        left = ratio * self.low_share
        if left < 1:
            return None
        cached = self._searched("cache", f"{left:.3g}x")
        return Plan(name=NAIVE, sections=(in_low(self.problem, cached.section, site),))


def in_low(problem: Problem, section: NetworkPlan, site: Site) -> NetworkPlan:
    """A section whose computed steps are in the site's variant, and nothing else is changed."""
    own, name = section.schedule, site.variant
    low = [action.model_copy(update={"variant": name}) if action.computes else action for action in own.palette]
    palette = (*low, Action())
    schedule = Schedule(palette=palette, tables=own.tables)
    flops = (*(section.action_flops or ()), (section.action_flops or (0.0,))[0])
    told = {name: getattr(section, name) for name in NetworkPlan.model_fields}
    told |= {"schedule": schedule, "variants": dict(site.variants.specs), "action_flops": flops, "quality": None}
    told |= {"timing": None, "certificate": None}
    told["action_bits"] = action_bits(replace(problem, variants=site.variants), schedule, flops)
    return NetworkPlan(**told)

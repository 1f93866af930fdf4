"""The section of a plan that computes the first step of each group, and reuses what a span of blocks adds on others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from hyca_calib.search.assemble import section_of
from hyca_calib.search.cachequant.site import DEVIATION, Site
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array
from hyca_runtime.forecast import Forecast, Source
from hyca_runtime.group import DimensionGroup, SolverSpec, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY, Schedule
from hyca_runtime.solvers import Fitted, Hold


def cached_section(
    problem: Problem,
    site: Site,
    begins: Sequence[int],
    reused: Array | None = None,
    outputs: Mapping[str, Array] = MappingProxyType({}),
) -> NetworkPlan:
    """A section in the variant of a site.

    Args:
        begins: the computed steps.
        reused: scale and shift of what is reused, ``(step, 2, channel)``; it is taken as it is by default.
        outputs: the same of layers that a variant quantises, by path.
    """
    steps = problem.trace.num_steps
    others = [step for step in range(steps) if step not in begins]
    table = tuple(1 if step in begins else 2 for step in range(steps))
    forecast = _held(site)
    if reused is not None and others:
        group = forecast.groups[EVERY][0].model_copy(
            update={"solver": _rows(reused[:, :1], others), "fallback": Hold().spec()}
        )
        told = {"groups": {EVERY: (group,)}, "sources": {EVERY: (Source(solver=_rows(reused[:, 1:], others)),)}}
        forecast = forecast.model_copy(update=told)
    known, name = site.variants, site.variant
    if outputs and others:
        spec = known.specs[name].model_copy(
            update={"corrections": {path: _rows(rows, others) for path, rows in outputs.items()}}
        )
        known = replace(known, specs={name: spec})
    schedule = Schedule(palette=site.palette, tables={EVERY: table})
    return section_of(replace(problem, variants=known), "step", {DEVIATION: forecast}, schedule, site.flops)


def _held(site: Site) -> Forecast:
    """What the span adds, as it was."""
    channels = site.layers.channels[DEVIATION]
    everything = DimensionGroup(name="all", channels=encode_channels(range(channels)), solver=Hold().spec())
    return Forecast(
        at=site.layers.points[DEVIATION],
        num_channels=channels,
        groups={EVERY: (everything,)},
        numel=site.layers.numel[DEVIATION],
    )


def _rows(rows: Array, steps: Sequence[int]) -> SolverSpec:
    return Fitted(tuple(steps), np.asarray(rows[list(steps)])).spec()

"""The rows of weights of a section, one below the other: what is fitted, refined and rolled out.

A row forecasts one point for one guidance branch (or all of them alike) on one step, from some regressors: features
computed there on earlier steps, of that branch or another, and perhaps a constant.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.search.replay import Array
from hyca_runtime.forecast import Forecast, Source
from hyca_runtime.group import DimensionGroup
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import Fitted

Regressor = tuple[str, int] | None
"""The feature that a branch (`EVERY`: whichever is forecast) computed on a step; None is the constant 1."""


@dataclass(frozen=True)
class Row:
    """What one row forecasts, and what its weights are of.

    Attributes:
        point: its name.
        branch: `EVERY` where all are forecast alike.
        regressors: of that point.
        own: how many of the regressors are of the branch itself; they come first.
    """

    point: str
    branch: str
    step: int
    regressors: tuple[Regressor, ...]
    own: int

    @property
    def newest(self) -> int:
        """The computed step before the gap that the row is for."""
        regressor = self.regressors[0]
        return regressor[1] if regressor is not None else 0


Places = tuple[tuple[list[int], int], ...]
"""Of each row, where a Gram matrix has its regressors and what it forecasts."""


def rows_of(section: NetworkPlan) -> tuple[Row, ...]:
    """The rows of all points, branch by branch, steps ascending."""
    found = []
    for name, forecast in section.points.items():
        for branch in _forecast_apart(forecast):
            for step, taps in section.taps(name, branch).items():
                regressors: list[Regressor] = [(branch, past) for past in taps.history]
                for source, table in section.sources(name, branch):
                    read = source.branch
                    regressors += [None] if read is None else [(read, past) for past in table[step].history]
                found.append(Row(name, branch, step, tuple(regressors), len(taps.history)))
    return tuple(found)


def places_of(rows: Sequence[Row], points: Sequence[str], branches: Sequence[str], num_steps: int) -> Places:
    """Where a Gram matrix has the rows, which is over all steps of these branches of every point, and the constant.

    Args:
        branches: `EVERY` alone for rows that are for all alike.
    """
    order = itertools.product(points, branches)
    begins = {of: i * num_steps for i, of in enumerate(order)}
    constant = len(begins) * num_steps
    return tuple(
        (
            [constant if at is None else begins[row.point, at[0]] + at[1] for at in row.regressors],
            begins[row.point, row.branch] + row.step,
        )
        for row in rows
    )


def plan_taps(section: NetworkPlan) -> Array:
    """The section's weights ``(row, tap, channel)``, shorter rows and points with fewer channels padded with zeros."""
    rows, channels = rows_of(section), max(forecast.num_channels for forecast in section.points.values())
    table = np.zeros((len(rows), max(len(row.regressors) for row in rows), channels))
    for i, row in enumerate(rows):
        pieces = [section.taps(row.point, row.branch)[row.step].weights]
        pieces += [taps[row.step].weights for _, taps in section.sources(row.point, row.branch)]
        found = np.concatenate(pieces)
        table[i, : len(found), : found.shape[1]] = found
    return table


def with_taps(section: NetworkPlan, taps: Array) -> NetworkPlan:
    """`section` with the weights ``(row, tap, channel)``; a group whose channels all share one row keeps one row."""
    found, rows = dict(section.points), rows_of(section)
    for name, forecast in section.points.items():
        own = taps[:, :, : forecast.num_channels]
        groups, sources = dict(forecast.groups), dict(forecast.sources)
        for branch in _forecast_apart(forecast):
            chosen = [(r, of) for r, of in zip(rows, own, strict=True) if (r.point, r.branch) == (name, branch)]
            groups[branch] = _groups(forecast, branch, _tabulated([(row.step, of[: row.own]) for row, of in chosen]))
            if branch in sources:
                sources[branch] = _sources(forecast.sources[branch], chosen)
        found[name] = forecast.model_copy(update={"groups": groups, "sources": sources})
    return with_forecasts(section, found)


def with_forecasts(section: NetworkPlan, forecasts: Mapping[str, Forecast]) -> NetworkPlan:
    """`section` with other forecasts of its points."""
    fields = {name: getattr(section, name) for name in NetworkPlan.model_fields}
    return NetworkPlan(**{**fields, "points": dict(forecasts)})


def _forecast_apart(forecast: Forecast) -> list[str]:
    """Guidance branches that have rows of their own; `EVERY` where they are forecast alike."""
    return sorted(forecast.groups.keys() - {EVERY}) or [EVERY]


def _groups(forecast: Forecast, branch: str, table: Fitted) -> tuple[DimensionGroup, ...]:
    found = []
    for group in forecast.groups_of(branch):
        rows = table.weights[:, :, group.indices]
        shared = bool((rows == rows[:, :, :1]).all())
        solver = Fitted(table.steps, rows[:, :, :1] if shared else rows)
        found.append(group.model_copy(update={"solver": solver.spec(), "fallback": group.closed_form}))
    return tuple(found)


def _sources(sources: Sequence[Source], chosen: Sequence[tuple[Row, Array]]) -> tuple[Source, ...]:
    found = []
    for number, source in enumerate(sources):
        rows = []
        for row, table in chosen:
            places = [i for i, regressor in enumerate(row.regressors) if _is_of(regressor, source) and i >= row.own]
            rows.append((row.step, table[places]))
        found.append(sources[number].model_copy(update={"solver": _tabulated(rows).spec()}))
    return tuple(found)


def _is_of(regressor: Regressor, source: Source) -> bool:
    return (regressor is None) == (source.branch is None) and (regressor is None or regressor[0] == source.branch)


def _tabulated(rows: Sequence[tuple[int, Array]]) -> Fitted:
    """Steps with their weights ``(tap, channel)`` as a table; shorter rows are padded with zeros."""
    depth = max(len(weights) for _, weights in rows)
    padded = [np.pad(weights, ((0, depth - len(weights)), (0, 0))) for _, weights in rows]
    return Fitted(tuple(step for step, _ in rows), np.stack(padded))

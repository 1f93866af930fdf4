"""Adding up what the networks of a session did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from hyca_runtime.cost_ratio import cost_ratio
from hyca_runtime.executor import Executor
from hyca_runtime.lane import Lane
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.report import RunReport

GONE = "no network follows the plan any more: the session was removed, or the pipeline has another; apply it again"


def account(
    executors: Mapping[str, Executor],
    own: bool,
    adapted: bool,
    bytes_ahead: int | None,
    key_bytes: int,
    networks: Sequence[str],
) -> RunReport:
    """What the latest run did; of a video in chunks all of them together.

    Args:
        executors: by the name of their network.
        own: leave out what other threads did.
        adapted, bytes_ahead, key_bytes, networks: as of the report.
    """
    lanes = [(name, number, lane) for name, executor in executors.items() for number, lane in executor.lanes_of(own)]
    streams = {
        (name if len(executors) > 1 else "", branch, part, number): state.count
        for name, number, lane in lanes
        for (branch, part), state in list(lane.streams.items())  # other threads go on meanwhile
    }
    furthest = [_furthest([(number, lane) for name, number, lane in lanes if name == of]) for of in executors]
    departed = [executor.departure(own) for executor in executors.values()] or [GONE]
    leading, every = [lane for of in furthest for lane in of], [lane for _, _, lane in lanes]
    return RunReport(
        streams=streams,
        computed=sum(lane.computed for lane in leading),
        steps=sum(lane.steps for lane in leading),
        partly=sum(lane.partly for lane in leading),
        computed_at=leading[0].computed_at if len(executors) == len(leading) == 1 else (),
        absent=tuple(sorted(set().union(*(lane.absent for lane in every)))),
        off_plan=next(filter(None, departed), ""),
        adapted=adapted,
        cache_bytes=sum(count.cache_bytes for count in streams.values()),
        key_bytes=key_bytes,
        forecast_flops=sum(count.forecast_flops for count in streams.values()),
        waits=sum(count.waits for count in streams.values()),
        flops_ratio=cost_ratio(every, lambda section: section.action_flops),
        bits_ratio=cost_ratio(every, lambda section: section.action_bits),
        seconds_ratio=cost_ratio(every, lambda section: section.action_seconds),
        followed=tuple(section for of in furthest for section in _sections(of)),
        bytes_ahead=bytes_ahead,
        variant_bytes=sum(executor.variant_bytes for executor in executors.values()),
        networks=tuple(networks),
    )


def _furthest(lanes: Sequence[tuple[int, Lane]]) -> list[Lane]:
    """The lanes of the sampler that came furthest: one, or one for each chunk."""
    by_sampler = [[lane for _, lane in of] for _, of in groupby(sorted(lanes, key=_number), _number)]
    return max(by_sampler, key=lambda of: sum(lane.steps for lane in of), default=[])


def _sections(lanes: Sequence[Lane]) -> list[NetworkPlan]:
    """What they follow, each once."""
    found = [lane.plan.section(lane.track) for lane in lanes]
    return [*{id(section): section for section in found}.values()]


def _number(numbered: tuple[int, Lane]) -> int:
    return numbered[0]

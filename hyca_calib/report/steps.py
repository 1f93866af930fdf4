"""What a plan computes on which steps, as reports show it."""

from __future__ import annotations

from hyca_runtime.forecast import Source
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import FEATURE

NETWORK = "network"
MOST_NAMED = 6
"""Points that are named in a line."""
MOST_LETTERS = 60
"""Of their names and counts, for they stand beside pictures, too."""


def computed_at(section: NetworkPlan) -> dict[str, tuple[bool, ...]]:
    """Whether the network, or what each named point stands for, is computed on each step for all branches.

    Of a point behind the first blocks among others these blocks are told.
    """
    found, tables = dict[str, tuple[bool, ...]](), [*section.schedule.tables.values()]
    for name, forecast in section.points.items():
        label, leading = NETWORK if name == FEATURE else name, name != FEATURE and forecast.at.kind == "behind"
        runs = [not leading and section.keeps(action, name) for action in section.schedule.palette]
        if leading:
            label = f"first {forecast.at.path} blocks"
            whole = [any(section.points[of].at.skips_loop for of in a.forecast) for a in section.schedule.palette]
            runs = [not skipped for skipped in whole]
        found[label] = tuple(all(runs[action] for action in actions) for actions in zip(*tables, strict=True))
    return found


def told_steps(section: NetworkPlan) -> str:
    """On how many steps what is computed: "attention on 8, mlp on 5 of 12 steps"."""
    counts = {name: sum(steps) for name, steps in computed_at(section).items()}
    told = ", ".join(f"{name} on {count}" for name, count in counts.items()).removeprefix(f"{NETWORK} on ")
    if len(counts) > 1 and (len(counts) > MOST_NAMED or len(told) > MOST_LETTERS):
        told = f"{len(counts)} points on {min(counts.values())} to {max(counts.values())}"
    return f"{told} of {section.schedule.num_steps} steps"


def told_points(section: NetworkPlan) -> str:
    """Where a plan caches."""
    places = [str(place) for place in section.places.values()]
    return ", ".join(places[:MOST_NAMED]) + (f" and {len(places) - MOST_NAMED} more" if places[MOST_NAMED:] else "")


def told_sources(section: NetworkPlan) -> str:
    """What forecasts weigh beside the own past of a branch: "1/2: the past of 2/2, a constant; ...", "" for nothing."""
    told = dict[str, str]()
    for forecast in section.points.values():
        for branch, sources in forecast.sources.items():
            kinds = ["a constant" if s.branch is None else f"{_when(s)} {_named(s.branch)}" for s in sources]
            told[_named(branch)] = ", ".join(kinds)
    return "; ".join(f"{branch}: {kinds}" for branch, kinds in told.items())


def _when(source: Source) -> str:
    return "the live value of" if source.live else "the past of"


def _named(branch: str) -> str:
    return branch or "the unnamed branch"

"""What a plan computes on which steps, as reports show it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyca_calib.search.past_cost import told_keys
from hyca_runtime import Plan
from hyca_runtime.certified import valid_certificate
from hyca_runtime.forecast import Source
from hyca_runtime.integrations.plan_index import IndexedNetwork
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint
from hyca_runtime.policies import PolicySpec
from hyca_runtime.schedule import EVERY, FEATURE, Schedule

NETWORK = "network"
MOST_NAMED = 6
"""Points that are named in a line."""
MOST_LETTERS = 60
"""Of their names and counts, for they stand beside pictures, too."""
MOST_NUMBERS = 4
"""Of a list that is told in a line; as many stand for a longer one."""


def chunks_of(section: NetworkPlan) -> str:
    """Which chunks of a video a section is for, beside others for the rest."""
    start = section.from_chunk or 0
    return {0: "first chunk", 1: "later chunks"}.get(start, f"chunks from number {start + 1} on")


def told_by_chunk(plan: Plan, tell: Callable[[NetworkPlan], str]) -> str:
    """What is told of a plan's sections, of all together where it is the same."""
    told = [tell(section) for section in plan.sections]
    if len(set(told)) == 1:
        return told[0]
    return "; ".join(f"{chunks_of(own)}: {text}" for own, text in zip(plan.sections, told, strict=True) if text)


def computed_by_chunk(plan: Plan) -> dict[str, tuple[bool, ...]]:
    """As `computed_at`, of all sections, for chunks of a video."""
    if len(plan.sections) == 1:
        return computed_at(plan.section)
    found = {chunks_of(section): computed_at(section) for section in plan.sections}
    return {
        chunks if name == NETWORK else f"{name}, {chunks}": steps
        for chunks, rows in found.items()
        for name, steps in rows.items()
    }


def computed_at(section: NetworkPlan) -> dict[str, tuple[bool, ...]]:
    """Whether the network, or what each named point stands for, is computed on each step, for each guidance branch
    where they differ.

    Of a point behind the first blocks, beside one that stands for them too, these blocks are told.
    """
    found, palette = dict[str, tuple[bool, ...]](), section.schedule.palette
    forecast = {name: of.at for name, of in section.points.items() if of.groups}  # others are only weighed
    none_runs = [any(forecast[name].skips_loop for name in action.forecast) for action in palette]
    for name, at in forecast.items():
        label, runs = NETWORK if name == FEATURE else name, [section.keeps(action, name) for action in palette]
        if at.kind == "behind" and any(none_runs):
            label = "first block" if at.leading == 1 else f"first {at.leading} blocks"
            lead = CachePoint(kind="leading", path=at.path)
            runs = [not any(forecast[other].stands_for(lead) for other in action.forecast) for action in palette]
        for branch, table in _tables(section.schedule).items():
            whose = branch if label == NETWORK and branch else f"{label} of {branch}" if branch else label
            found[whose] = tuple(runs[action] for action in table)
    return found


def _tables(schedule: Schedule) -> dict[str, tuple[int, ...]]:
    """The tables of guidance branches by how they are told; one without a name where all are alike."""
    every = schedule.tables[EVERY]
    named = {_named(branch): table for branch, table in schedule.tables.items() if branch != EVERY}
    if all(table == every for table in named.values()):
        return {"": every}
    return named if every in named.values() else {**named, "others": every}


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
    weighing = {name: forecast.sources for name, forecast in section.points.items() if forecast.sources}
    told = []
    for name, sources_of in weighing.items():
        for branch, sources in sources_of.items():
            where = f" at {name}" if len(weighing) > 1 else ""
            told.append(f"{_named(branch)}{where}: {', '.join(map(_weighed, sources))}")
    return "; ".join(told)


def told_kept(plan: Plan) -> str:
    """What is kept of the keys and values of finished chunks, in a line; "" where a plan keeps none."""
    chunks = plan.sections[0].chunks
    if chunks is None or chunks.keys is None:
        return ""
    return told_keys(chunks.keys)


def told_policy(spec: PolicySpec) -> str:
    """Who decides in each run, and by which settings, in a line."""
    settings = [f"{name} {told_setting(value)}" for name, value in spec.configuration.items() if value is not None]
    bound = [f"at most {spec.max_computed} computed"] if spec.max_computed else []
    return ": ".join(filter(None, (spec.name, ", ".join(settings + bound))))


def told_setting(value: Any) -> str:
    """A value in a few characters: a long list by its ends and its length, numbers rounded."""
    if isinstance(value, Mapping):
        named = [f"{name} {told_setting(of)}" for name, of in value.items()]
        return f"({', '.join(named)})" if len(named) <= MOST_NAMED else f"({len(named)} entries)"
    if isinstance(value, Sequence) and not isinstance(value, str):
        told, more = [*map(told_setting, value)], len(value) > MOST_NUMBERS
        if more and len(set(told)) == 1:
            return f"[{len(told)} times {told[0]}]"
        told = [*told[: MOST_NUMBERS - 1], "..", f"{told[-1]}, {len(told)} in all"] if more else told
        return f"[{' '.join(told)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def told_budget(plan: Plan) -> str:
    """The budget that a plan was made for, "" if it does not say."""
    told = plan.provenance.get("budget")
    if not isinstance(told, dict) or not told.get("asked"):
        return ""
    over = 100 * float(told.get("tolerance", 0))
    return str(told["asked"]) + (f", at most {over:.0f} % over" if over else "")


def told_ratios(found: NetworkPlan | IndexedNetwork) -> str:
    """By how much a run is cheaper, as far as the plan says its costs; "" where it says none."""
    ratios = {"FLOPs": found.flops_ratio, "bit operations": found.bits_ratio}
    return ", ".join(f"{ratio:.2f}x by {measure}" for measure, ratio in ratios.items() if ratio)


def told_certificate(section: NetworkPlan, plan: Plan) -> str:
    """What the certificate of one of the plan's sections says, "" if there is none."""
    if section.certificate is None:
        return ""
    valid = valid_certificate(section, plan.sections)
    return str(valid) if valid else "none: the plan was changed after it was certified; `hyca evaluate` measures it"


def _weighed(source: Source) -> str:
    if source.is_constant:
        return "a constant"
    names = [_named(source.branch)] if source.branch is not None else []
    names += [source.point] if source.point is not None else []
    return f"{'the live value' if source.live else 'the past'} of {' at '.join(names)}"


def _named(branch: str) -> str:
    return branch or "the unnamed branch"

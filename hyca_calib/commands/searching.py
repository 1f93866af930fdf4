"""Search: traces in, plans out, progress on the console."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hyca_calib.commands.asked import Asked
from hyca_calib.commands.chunk_presets import check_keys, keys_of
from hyca_calib.commands.counted import CLOCKS, COUNTS, counted
from hyca_calib.commands.options import STUDIES, TRACES, SearchLimits
from hyca_calib.commands.plans import report
from hyca_calib.commands.presets import OFFERS, Offer, preset_of
from hyca_calib.commands.reach import within_reach
from hyca_calib.costs.budget import TOLERANCE, Budget, parse_budgets
from hyca_calib.pipelines.load import TracedModel, default_device, load_traced
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.records.console import say
from hyca_calib.report.front import write_front
from hyca_calib.search.effort import EFFORTS, Effort
from hyca_calib.search.lineage import part_for
from hyca_calib.search.precision.variants import parse_variants
from hyca_calib.search.problem import Problem
from hyca_calib.search.run_seconds import keep_seconds, kept_seconds, run_seconds
from hyca_calib.search.sources import BEST, CACHEQUANT, QUANTCACHE
from hyca_calib.search.start import started
from hyca_calib.search.storage import public
from hyca_calib.search.study import CONTENT, JOURNAL, StudyFolder
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.run_log import run_log
from hyca_calib.trace.store import Trace, newest_trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.errors import BudgetError, TraceError
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.variant import EVEN


def search_plans(budgets: str | None, traces: Sequence[str], limits: SearchLimits, out: Path | None) -> list[Path]:
    """``hyca_calib search``; returns the paths of the plans.

    Args:
        budgets: may be left out where a schedule is followed.
        traces: of one workload, at different cache points, each at one or several; empty takes the newest.

    Raises:
        BudgetError: a budget cannot be met, or there is none.
        StudyError: unknown preset, or a folder that holds another study.
        TraceError: traces of different models or workloads.
    """

    def load(model: TracedModel) -> Pipeline:
        return load_traced(model, limits.model, limits.device, limits.download)

    return search_with(load, budgets, traces, limits, out)


def search_with(
    load: Callable[[TracedModel], Pipeline],
    budgets: str | None,
    traces: Sequence[str],
    limits: SearchLimits,
    out: Path | None,
    effort: Effort | None = None,
    told: Mapping[str, Any] = MappingProxyType({}),
    reported: bool = True,
    start: Plan | None = None,
) -> list[Path]:
    """As `search_plans`, of a pipeline that the caller has or loads.

    Args:
        load: gives the pipeline that was traced, which is not asked for where everything is there.
        effort: in place of limits; by default the one that they name.
        told: what requests and plans say besides, see `hyca_calib.search.study.TOLD`.
        reported: whether reports are made, too.
        start: an earlier plan that the search begins with.
    """
    preset = preset_of(limits)
    effort = effort or EFFORTS.get(limits.effort or "")
    limits = counted(limits, effort)
    wanted = _budgets(budgets, limits)
    recorded = _traces(list(traces) or [str(newest_trace(TRACES))], limits)
    timed = any(budget.needs_seconds for budget in wanted)
    if not timed:
        recorded = _within_reach(wanted, recorded, limits)
    for trace_ in recorded[1:]:
        trace_.check_same_samples(recorded[0])
    suffix = "" if limits.preset == BEST else f"-{limits.preset}"
    folder = out or STUDIES / f"{Path(recorded[0].where).stem}-{'-'.join(b.text for b in wanted)}{suffix}"
    folders = [folder if len(wanted) == 1 else folder / budget.text for budget in wanted]
    requests = [{**_request(recorded, budget, limits, effort), **told} for budget in wanted]
    studies = [StudyFolder.at(where, request) for where, request in zip(folders, requests, strict=True)]
    if all(study.complete and (study.report.exists() or not reported) for study in studies):
        say(f"{folder}: complete already")
        return [study.plan for study in studies]
    _check_options(limits, recorded, wanted)
    pipe = load(recorded[0].attributes.model)
    seconds = (kept_seconds(folder, recorded[0]) or run_seconds(pipe, recorded[0])) if timed else None
    if seconds is not None:
        wanted = tuple(budget.within(seconds) for budget in wanted)
        recorded = _within_reach(wanted, recorded, limits)
    make = preset.prepare(Asked(pipe, _problems(recorded, limits, start), wanted, limits, folder, effort, start))
    for study, request in zip(studies, requests, strict=True):
        StudyFolder.open(study.folder, request)
    if seconds is not None:
        keep_seconds(folder, recorded[0], seconds)
    facts = {"device": limits.device or default_device(), "storage": public(limits.storage or JOURNAL)}
    with run_log(Folder(folder), facts):
        for budget, study in zip(wanted, studies, strict=True):
            if not study.complete:
                say(f"budget {budget.text} -> {study.folder}")
                make(budget, study)
            if reported:
                report_once(pipe, recorded, study)
        if reported:
            compare(studies, folder)
    return [study.plan for study in studies]


def _within_reach(budgets: Sequence[Budget], recorded: list[Trace], limits: SearchLimits) -> list[Trace]:
    """As `within_reach`, where a trace alone tells it: quantised steps may be cheaper."""
    told = preset_of(limits).computes_steps and limits.precision is None
    return within_reach(budgets, recorded) if told else recorded


def _problems(recorded: Sequence[Trace], limits: SearchLimits, start: Plan | None) -> list[Problem]:
    """What is known of each trace, also from an earlier plan."""
    palette, apart = _palette(limits)
    keys = keys_of(limits)
    found = [Problem(trace_, partial=palette[1:], apart=apart, keys=keys[0]) for trace_ in recorded]
    return found if start is None else [started(problem, part_for(start, problem.trace)) for problem in found]


def preset_study(trace: Trace, budget: Budget, limits: SearchLimits, folder: Path) -> StudyFolder:
    """The study of a preset at one of several budgets, below the folder that they share.

    Raises:
        StudyError: unknown preset, or another study is there.
    """
    preset_of(limits)
    return StudyFolder.at(folder / budget.text, _request([trace], budget, limits))


def search_preset_study(pipe: Pipeline, trace: Trace, budget: Budget, limits: SearchLimits, folder: Path) -> Path:
    """The plan of that study, made as ``hyca search`` does for several budgets, unless it is complete.

    Raises:
        BudgetError: the budget cannot be met.
    """
    study, preset = preset_study(trace, budget, limits, folder), preset_of(limits)
    if not study.complete:
        recorded = _at_points(trace, preset)
        recorded = within_reach((budget,), recorded) if preset.computes_steps else recorded
        make = preset.prepare(Asked(pipe, [*map(Problem, recorded)], (budget,), limits, folder))
        make(budget, StudyFolder.open(study.folder, _request([trace], budget, limits)))
    return study.plan


def report_once(pipe: Pipeline, recorded: Sequence[Trace], study: StudyFolder) -> None:
    """Write the report of a complete study if it is not there."""
    plan = load_plan(study.plan)
    if not study.report.exists():
        places = list(plan.sections[0].places.values())
        own = next((trace_ for trace_ in recorded if places == [trace_.point]), recorded[0])
        report(pipe, study, [own] if len(plan.sections) == 1 else recorded)
    say(f"report: {study.report}")


def compare(studies: Sequence[StudyFolder], folder: Path) -> None:
    """Write a page of all plans, if there are several."""
    if len(studies) > 1:
        page = write_front([(study.plan, load_plan(study.plan)) for study in studies], folder)
        say(f"front: {page}")


def _budgets(budgets: str | None, limits: SearchLimits) -> tuple[Budget, ...]:
    """What plans are made for; one without a limit, named after its file, where a schedule is followed."""
    if (budgets is None) == (limits.schedule is None):
        raise BudgetError("give either --budget, such as 5x, or a --schedule to follow")
    if budgets is None and limits.schedule is not None:
        return (Budget(limits.schedule.stem),)
    found = parse_budgets(budgets or "", 0.0 if limits.strict else TOLERANCE)
    if limits.workers > 1 and any(budget.needs_seconds for budget in found):
        raise BudgetError("budgets of time take one process, which times the model: leave --workers, or use 5x")
    return found


def _traces(paths: list[str], limits: SearchLimits) -> list[Trace]:
    """The traces, at each of their points, or one at its first; they must be of one model at different ones."""
    whole, preset = [Trace(path) for path in paths], preset_of(limits)
    palette, apart = _palette(limits)
    if palette:
        if len(whole) > 1:
            raise TraceError(f"--palette takes one trace of its points, got {', '.join(paths)}")
        whole[0].check_across(palette)
        if apart and not (len(whole[0].guidance) > 1 and whole[0].crossed):
            raise TraceError(f"--palette branches: {paths[0]} has no guidance whose branches see the same tokens")
        return [whole[0].at(palette[0])]
    recorded = [each for trace_ in whole for each in _at_points(trace_, preset)]
    models = {trace_.attributes.model.weights_digest for trace_ in recorded}
    points = {(str(trace_.point), trace_.attributes.chunks and trace_.attributes.chunks.which) for trace_ in recorded}
    if len(models) > 1 or len(points) < len(recorded):
        raise TraceError(f"several traces must be of one model, each at another point; got {', '.join(paths)}")
    if len(recorded) > 1 and not preset.chooses_point:
        raise TraceError(f"preset {limits.preset!r} takes one trace, got {len(recorded)}")
    return recorded


def _at_points(trace_: Trace, preset: Offer) -> list[Trace]:
    return [trace_.at(point) for point in trace_.points] if preset.chooses_point else [trace_]


def _check_options(limits: SearchLimits, recorded: Sequence[Trace], budgets: Sequence[Budget]) -> None:
    """Whether what is asked of keys and of precision can be done.

    Raises:
        StudyError: see `check_keys`.
        BudgetError: unknown variants, a budget that they do not help to keep, or of what is not measured, another
            palette beside them, chunks of a video, or roundings of none.
    """
    check_keys(limits, recorded, budgets)
    in_time = next((budget.text for budget in budgets if budget.needs_seconds), None)
    if limits.preset in (CACHEQUANT, QUANTCACHE) and in_time is not None:
        raise BudgetError(f"budget {in_time!r}: {limits.preset} does not time quantised steps; use 2x or '10x bitops'")
    if limits.precision is None:
        if limits.roundings != SearchLimits.roundings:
            raise BudgetError(
                f"--roundings {limits.roundings} is of quantised weights; give --precision, or leave it out"
            )
        return
    schemes = {spec.scheme for spec in parse_variants(limits.precision).values()}
    if limits.roundings != SearchLimits.roundings and not schemes & EVEN:
        raise BudgetError(f"--roundings is of {' and '.join(sorted(EVEN))}, got --precision {limits.precision}")
    if limits.preset != BEST:  # recipes reuse something besides, so that any other budget makes sense
        return
    if limits.palette is not None:
        raise BudgetError("--precision goes with whole steps, give it without --palette")
    if any(trace_.attributes.chunks is not None for trace_ in recorded):
        raise BudgetError("--precision is not for videos in chunks yet; leave it out")
    for budget in budgets:
        if budget.needs_seconds:
            if any(spec.simulated for spec in parse_variants(limits.precision).values()):
                raise BudgetError(
                    f"budget {budget.text!r}: simulated variants save no time; leave ':simulated', or use '10x bitops'"
                )
        elif budget.measure == "flops":
            cure = "give it in bit operations or time, such as '10x bitops' or '2.5x wall'"
            raise BudgetError(f"budget {budget.text!r}: quantised weights take as many FLOPs; {cure}")


BRANCHES = "branches"
"""Word of a palette: guidance branches may be computed on different steps."""


def _palette(limits: SearchLimits) -> tuple[tuple[CachePoint, ...], bool]:
    """What steps may forecast, the network's own end and what is behind its first blocks, nothing by default; and
    whether guidance branches may be computed on different steps.

    Raises:
        BudgetError: other points.
    """
    names = [text.strip() for text in limits.palette.split(",")] if limits.palette else []
    found = tuple(parse_point(name) for name in names if name not in (BRANCHES, ""))
    fits = found[:1] and found[0].skips_loop and all(point.kind == "behind" for point in found[1:])
    if names and (not fits or len(set(names) - {""}) < len(names)):
        raise BudgetError(
            f"--palette {limits.palette}: expected trunk, then points behind first blocks, each once: trunk,behind:1"
        )
    return found, BRANCHES in names


OF_SOME = ("lookahead", "schedule", "order", "threshold", "free", "fitted", "response")
"""Options that only the requests of presets that read them hold."""


def _request(
    traces: Sequence[Trace], budget: Budget, limits: SearchLimits, effort: Effort | None = None
) -> dict[str, Any]:
    lasting = replace(limits, storage=None, workers=1, device=None, model=None, download=False)
    wanted = asdict(lasting)  # who works on it, and where, does not change it
    wanted.pop("effort")
    wanted["keys"] = limits.keys[0] if limits.keys and len(limits.keys) == 1 else limits.keys  # as before of one
    for name in ("precision", "keys", "most_keys", "refine_at"):
        if wanted[name] is None:  # as before there was such an option
            wanted.pop(name)
    if "precision" not in wanted or limits.preset != BEST:
        wanted.pop("roundings")
    own = {name: wanted.pop(name) for name in OF_SOME}
    for name in (*CLOCKS, *COUNTS) if effort else ():
        wanted.pop(name)
    if not wanted.get("fresh"):  # as before there was such an option
        wanted.pop("fresh", None)
    preset = OFFERS[limits.preset]
    if limits.schedule is not None:
        own["schedule"] = preset.read_schedule(limits.schedule)
    recorded = {"traces": [t.name for t in traces], CONTENT: [t.digest for t in traces]}
    asked = {**recorded, "budget": budget.text, "limits": wanted}
    asked |= {"effort": effort.told} if effort else {}
    return asked | {name: value for name, value in own.items() if name in preset.options}

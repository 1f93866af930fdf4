"""What a plan says about where it comes from, held against a trace."""

from hyca_calib.pipelines.load import TracedModel
from hyca_calib.records.origins import origins
from hyca_calib.search.error_damping import carried_over
from hyca_calib.search.problem import Problem
from hyca_calib.search.retimed import is_on_grid
from hyca_calib.search.settings import Settings
from hyca_calib.trace.folder import Where
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import PlanMismatchError, TraceError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan

LATER = "trace_of_later_chunks"
"""What a plan calls that, beside the trace of the first chunk."""


def own_problem(plan: Plan, path: Where | None = None) -> tuple[Problem | None, str]:
    """The trace `plan` was made on, or None and why not.

    Args:
        path: where it is now; by default where the plan says it was.
    """
    named, fault = trace_named_in(plan)
    told = path or named
    if told is None:
        return None, fault
    try:
        trace = trace_for(plan, Trace(str(told)))
    except TraceError as error:
        return None, str(error)
    same = trace.attributes.workload.digest == plan.provenance.get("workload", {}).get("digest")
    if not same or misfit_of(plan, trace) or not is_on_grid(section_for(plan, trace), trace):
        return None, f"{told} is not the trace the plan was made on"
    return with_damping_of(plan, Problem(trace)), ""


def trace_for(plan: Plan, trace: Trace) -> Trace:
    """The trace as the plan's cache point shows it, if it is of that among others."""
    sections = (section for section in plan.sections if section.component == trace.attributes.model.component)
    places = {forecast.at for section in sections for forecast in section.points.values()}
    return trace.at(places.pop()) if len(places) == 1 and places <= set(trace.points) else trace


def part_for(plan: Plan, trace: Trace) -> Plan:
    """The plan that a merged one has for the runs of the trace, as if it stood alone; any other plan itself."""
    told = origins(plan.provenance)
    if len(told) != len(plan.sections) or trace.attributes.model.component not in {s.component for s in plan.sections}:
        return plan
    section = section_for(plan, trace)
    made = next(origin for origin, own in zip(told, plan.sections, strict=True) if own is section)
    return plan.model_copy(update={"sections": (section,), "provenance": dict(made)})


def trace_named_in(plan: Plan, label: str = "trace") -> tuple[str | None, str]:
    """Where the plan says its trace was, or None and why it is not looked for there.

    A plan is a file of anybody: it does not make this machine ask others for anything.

    Args:
        label: what the plan calls that; `LATER` for the trace of a video's later chunks.
    """
    told = plan.provenance.get(label)
    if not isinstance(told, str) or not told:
        return None, "the plan does not say which trace it was made on"
    if "://" in told or told.startswith(("//", "\\\\")):
        return None, f"the plan names a trace on another machine, {told[:200]!r}, which is opened only if you give it"
    return told, ""


def with_damping_of(plan: Plan, problem: Problem) -> Problem:
    """The problem with the damping that was measured for `plan`."""
    told = plan.provenance.get("healing")
    if not isinstance(told, list) or not all(isinstance(factor, int | float) for factor in told):
        return problem
    return carried_over(told, problem)


def refinement_gain(plan: Plan) -> float:
    """What end-to-end refinement of the taps gained on the select split, dB; 0 without one."""
    account = plan.provenance.get("refinement", {})
    before, after = account.get("select_psnr_before_db"), account.get("select_psnr_after_db")
    return max(0.0, after - before) if isinstance(before, int | float) and isinstance(after, int | float) else 0.0


def section_for(plan: Plan, trace: Trace) -> NetworkPlan:
    """The section a run of the trace follows: that of its times, else of the nearest number of steps."""
    sections = [s for s in plan.sections if s.component == trace.attributes.model.component]
    return min(
        sections,
        key=lambda section: (not is_on_grid(section, trace), abs(section.schedule.num_steps - trace.num_steps)),
    )


def settings_of(plan: Plan, section: NetworkPlan) -> Settings:
    """How the plan was searched; the defaults where it does not say."""
    try:
        return Settings(**plan.provenance["settings"])
    except (KeyError, TypeError):
        return Settings(axis=section.grid.axis)


def misfit_of(plan: Plan, trace: Trace) -> str:
    """Why the runtime would refuse the plan on the traced model, or "".

    Raises:
        PlanMismatchError: the plan has another cache point, or several.
    """
    model = trace.attributes.model
    section = next((s for s in plan.sections if s.component == model.component), None)
    if section is None or section.model.transformer != model.transformer:
        return foreign(plan, model)
    if len(section.points) > 1:
        raise PlanMismatchError(
            f"plan {plan.name!r} caches at {len(section.points)} points, {', '.join(section.points)}; only plans of "
            "one are checked on the statistics of a trace; measure it: python -m hyca_calib evaluate"
        )
    check_replayed(plan, section)
    forecast = section.forecast
    if forecast.at != trace.point:
        raise PlanMismatchError(
            f"plan {plan.name!r} caches at '{forecast.at}', {trace.where} was recorded at '{trace.point}'; "
            f"trace with --point {forecast.at}"
        )
    read = {source.branch for sources in forecast.sources.values() for source in sources if source.branch is not None}
    weighed = section.branches | read
    fits = section.stacked in (1, trace.stacked) and weighed <= set(trace.branches)
    if section.is_joint and not (fits and trace.guidance and trace.crossed):
        raise PlanMismatchError(
            f"plan {plan.name!r} has weights for the branches {', '.join(map(repr, sorted(weighed)))}, "
            f"{trace.where} has {', '.join(map(repr, trace.branches))}; trace with the guidance that the plan is for"
        )
    if forecast.num_channels != trace.num_channels:
        return f"the plan is for {forecast.num_channels} channels, the trace has {trace.num_channels}"
    return foreign(plan, model)


def foreign(plan: Plan, model: TracedModel) -> str:
    """Why no run of a model can follow the plan, whatever its steps and weights, or ""."""
    section = next((s for s in plan.sections if s.component == model.component), None)
    if section is None:
        return f"the plan has nothing for the {model.component}"
    wanted = section.model
    if wanted.transformer != model.transformer:
        return f"the plan is for a {wanted.transformer}, the model is a {model.transformer}"
    if wanted.config_digest != model.config_digest:
        return f"the plan is for a {wanted.transformer} of another configuration"
    return ""


def check_replayed(plan: Plan, section: NetworkPlan) -> None:
    """Raises PlanMismatchError where the statistics of a trace cannot tell what a section of the plan does, whatever
    its points."""
    if section.policy is not None:
        raise PlanMismatchError(
            f"plan {plan.name!r} decides at run time, by {section.policy.name}; a trace cannot tell what it computes; "
            "measure it: python -m hyca_calib evaluate"
        )
    if section.variants:
        raise PlanMismatchError(
            f"plan {plan.name!r} computes with quantised weights, {', '.join(section.variants)}, which are not in a "
            "trace; measure it: python -m hyca_calib evaluate"
        )
    live = any(source.live for of in section.points.values() for sources in of.sources.values() for source in sources)
    if len(section.schedule.tables) > 1 or live or (section.branches and not section.is_joint):
        raise PlanMismatchError(
            f"plan {plan.name!r} treats guidance branches differently on a step, which a trace does not replay; "
            "measure it: python -m hyca_calib evaluate"
        )


def changes_of(plan: Plan, section: NetworkPlan, trace: Trace, own: Trace | None) -> tuple[str, ...]:
    """How the trace differs from what the plan was made on, as far as is known."""
    traced, steps = trace.attributes, section.schedule.num_steps

    def differs(part: str, key: str) -> bool:
        here = getattr(getattr(traced, part), key)
        return plan.provenance.get(part, {}).get(key, here) not in (None, here)

    found = {
        f"{steps} steps -> {trace.num_steps}": steps != trace.num_steps,
        "other timesteps": steps == trace.num_steps and not is_on_grid(section, trace),
        "another scheduler": differs("model", "scheduler"),
        "other weights": differs("model", "weights_digest"),
        "other prompts or settings": differs("workload", "prompts_digest"),
        "another seed": differs("workload", "seed"),
        "other guidance branches": own is not None and own.branches != trace.branches,
        "another number of tokens": own is not None and own.of_point.num_tokens[0] != trace.of_point.num_tokens[0],
    }
    return tuple(change for change, is_so in found.items() if is_so)

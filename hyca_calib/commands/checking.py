"""Whether a plan holds elsewhere: files in, a verdict out."""

from collections.abc import Callable

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from hyca_calib.commands.options import CheckOptions
from hyca_calib.pipelines.defaults import batch_of
from hyca_calib.pipelines.load import TracedModel, load_traced
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.quality.metrics import interval
from hyca_calib.records.console import say
from hyca_calib.search.check_plan import Check, Costs, Verdict, check_plan
from hyca_calib.search.check_rollouts import Measured, measure
from hyca_calib.search.lineage import own_problem, part_for, trace_for, with_damping_of
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan

COLOURS: dict[Verdict, str] = {"holds": "green", "refit": "yellow", "redo": "red", "other model": "red"}
MEANING: dict[Verdict, str] = {
    "holds": "making it again would gain nothing to speak of",
    "refit": "its schedule may stay, its taps must be made again",
    "redo": "its schedule does not suit these runs; search again",
    "other model": "the runtime would refuse it",
}


class CheckResult(BaseModel, frozen=True):
    """A check, and what rollouts say if there were any.

    Attributes:
        verdict: what the rollouts say, else what the statistics say.
        own_trace: why the plan's own trace took no part, or "".
    """

    plan: str
    trace: str
    verdict: Verdict
    own_trace: str
    check: Check
    measured: Measured | None = None


def check_file(options: CheckOptions) -> CheckResult:
    """``hyca_calib check``; returns what the statistics say and, with a model, what rollouts say."""

    def load(model: TracedModel) -> Pipeline:
        return load_traced(model, options.model)

    return check_with(load if options.model is not None else None, load_plan(options.plan), options)


def check_with(load: Callable[[TracedModel], Pipeline] | None, plan: Plan, options: CheckOptions) -> CheckResult:
    """As `check_file`, of a plan that was read.

    Args:
        load: gives the pipeline that was traced, for rollouts; None makes none.
    """
    trace = Trace(options.trace)
    plan = part_for(plan, trace)
    problem = with_damping_of(plan, Problem(trace_for(plan, trace)))
    own, missing = own_problem(plan, options.own_trace)
    check, measured = check_plan(plan, problem, own), None
    if load is not None and check.here is not None:
        pipe = load(problem.trace.attributes.model)
        tested = problem.samples("test")[: options.samples]
        say(f"{len(tested.jobs)} test samples under the plan, with new taps and with a new schedule ...")
        measured = measure(pipe, plan, problem, tested, batch_of(options.model or "", options.batch))
    return CheckResult(
        plan=str(options.plan),
        trace=options.trace,
        verdict=(measured or check).verdict,
        own_trace=missing,
        check=check,
        measured=measured,
    )


def show_check(result: CheckResult) -> None:
    """Print a result of `check_file` for people."""
    out, check = Console(highlight=False), result.check
    out.print(f"{result.plan} on {result.trace}", soft_wrap=True, markup=False)
    if check.changes:
        out.print(f"differs from what it was made on: {', '.join(check.changes)}", soft_wrap=True)
    if result.own_trace and check.here:
        out.print(f"taken as unrefined on its own trace: {result.own_trace}", soft_wrap=True, markup=False)
    if check.here:
        own, searched = (" ".join(map(str, steps)) for steps in (check.computed, check.redo_computed))
        steps = f"computes {len(check.computed)} of {check.num_steps} steps: {own}; a schedule made here: {searched}"
        out.print(steps, soft_wrap=True)
        out.print(_table(check, check.here, result.measured))
    colour = COLOURS[result.verdict]
    out.print(f"[bold {colour}]{result.verdict}[/]: {MEANING[result.verdict]}", soft_wrap=True)
    out.print(f"statistics: {check.verdict}, {check.reason}", soft_wrap=True)
    if measured := result.measured:
        out.print(
            f"rollouts: {measured.verdict}, taps made here gain {measured.taps_db:.1f} dB (as refined as the plan's), "
            f"a schedule made here {measured.schedule_db:+.1f} dB more",
            soft_wrap=True,
        )
    if advice := _advice(result):
        out.print(advice, soft_wrap=True, markup=False)


def _table(check: Check, here: Costs, measured: Measured | None) -> Table:
    """What every way of going on costs by the statistics, and how well it draws if there were rollouts."""
    table = Table()
    table.add_column("")
    for name in ("cost here", "at home", *(["latent PSNR, dB (95 %)"] if measured else [])):
        table.add_column(name, justify="right")
    ways = {
        "plan": "plan, closed forms" if check.adapted else "plan",
        "refit": "new taps",
        "redo": "new schedule and taps",
        "closed": f"best closed form: {here.closed_form}",
        "hold": "features held",
    }
    for way, label in ways.items():
        home = f"{getattr(check.home, way):.3g}" if check.home and way != "closed" else "-"
        cells = [label, f"{getattr(here, way):.3g}", home]
        if measured:
            psnr = getattr(measured, f"{way}_db", None)
            cells.append("{:.1f} ({:.1f} to {:.1f})".format(*interval(psnr)) if psnr else "-")
        table.add_row(*cells)
    return table


def _advice(result: CheckResult) -> str:
    """What to type or write next."""
    check = result.check
    if result.verdict == "holds":
        return 'apply it with on_mismatch="adapt"' if check.adapted else ""
    count = len(check.computed)
    budget = "5x" if count == check.num_steps else f"'{count} steps'"  # also where nothing is known of any step
    short = " --confirm 0" if result.verdict == "refit" else ""
    return f"python -m hyca_calib search --trace {result.trace} --budget {budget}{short}"

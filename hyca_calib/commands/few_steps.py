"""Runs of few steps: whole ones are too coarse for most budgets, so some run a part of the network."""

from collections.abc import Sequence
from dataclasses import replace

from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.costs.budget import Budget
from hyca_calib.costs.flops import TIMED_TAPS, CostModel
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.console import say
from hyca_calib.search.fewer_steps import FewerSteps
from hyca_calib.search.options import FEW_STEPS
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.run import GRAM_TOKENS, probed
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.errors import AttachError, TraceError
from hyca_runtime.plan import Plan
from hyca_runtime.point import parse_point

PARTS = (0.25, 0.5, 0.75)
"""Shares of the blocks that a step may run."""
COARSE = 0.05
"""A plan that costs by so much less than was asked leaves something of the budget."""


def palette_of(pipe: Pipeline, options: CalibrateOptions, workload: Workload) -> str | None:
    """What steps of so short a run may forecast; None of longer ones, where points are asked for, or where the network
    has none that can be told together."""
    if options.steps > FEW_STEPS or options.point != CalibrateOptions.point:
        return None
    try:
        blocks = len(find_blocks(find_transformer(pipe, options.component)))
        parts = sorted({round(share * blocks) for share in PARTS} - {0, blocks})
        names = ["trunk", *(f"behind:{count}" for count in parts)]
        points = [parse_point(name) for name in names]
        with Recorder(pipe, points, GRAM_TOKENS, workload.seed, options.component) as recorder:
            probed(recorder, workload, workload.jobs[:1])[0].across()
    except (AttachError, TraceError) as error:
        say(f"whole steps alone, of {options.steps}: {error}")
        return None
    say(f"{options.steps} steps are few: some may run the first {', '.join(map(str, parts))} of {blocks} blocks")
    return ",".join(names) if parts else None


def of_few_steps(options: BenchOptions, workload: Workload) -> BenchOptions:
    """With the points of a palette, where plans of a run of few steps are searched and nobody says where."""
    if not options.searched or options.points or workload.num_steps > FEW_STEPS:
        return options
    run = CalibrateOptions(options.model, steps=workload.num_steps)
    palette = palette_of(load_pipeline(options.model), run, workload)
    return options if palette is None else replace(options, points=palette.split(","))


def palette_in(points: Sequence[str]) -> str | None:
    """The points as what steps may forecast, where some are behind first blocks."""
    return ",".join(points) if any(point.startswith("behind:") for point in points) else None


def tell_spent(plan: Plan, budget: Budget, cost: CostModel) -> None:
    """What a plan leaves of its budget, if that is much, and what would be the next that fits."""
    section, asked = plan.section, budget.share
    if asked is None or budget.measure != "flops" or not section.flops_ratio:
        return
    computed, steps = len(section.schedule.computed_steps), section.schedule.num_steps
    if section.flops_ratio * asked > 1 + COARSE and computed < steps:
        more = cost.flops_ratio(steps, computed + 1, TIMED_TAPS)
        say(
            f"budget {budget.text}: the plan costs 1/{section.flops_ratio:.3g} of the full run, {computed} of {steps} "
            f"steps; one more would be {more:.3g}x"
        )


def tell_gained(plan: Plan) -> None:
    """Whether a plan is worth more than fewer steps of the sampler, where that was measured."""
    if (found := FewerSteps.told_in(plan)) is not None:
        say(str(found))

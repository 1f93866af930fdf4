"""cache-dit's configurations: schedules of plans as its step masks, and its settings as plans.

A mask says *when* the network is computed, not how features are forecast; that is left to cache-dit's own
calibrators, or to the plan's weights (`hyca_runtime.integrations.cache_dit_taps`)::

    import cache_dit
    from hyca_runtime import load_plan
    from hyca_runtime.integrations.cache_dit import options

    cache_dit.enable_cache(pipe, **cache_dit.load_configs(options(load_plan("plan.json").section)))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyca_runtime.errors import PlanError
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.policies import ChangeSinceComputed, PolicySpec
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Hold, Solver, Taylor

WHOLE = ("trunk", "output", "behind", "blocks")
"""Kinds of points of which all blocks, or all behind the leading ones, rest together."""

NEUTRAL: Mapping[str, Any] = {
    "Bn_compute_blocks": 0,
    "warmup_interval": 1,
    "max_cached_steps": -1,
    "max_accumulated_residual_diff_threshold": None,
    "cfg_diff_compute_separate": True,
    "force_refresh_step_hint": None,
}
"""Settings of cache-dit that plans have no word for, with the value that does nothing."""


def steps_mask(section: NetworkPlan) -> list[int]:
    """``steps_computation_mask``: 1 for every step that is computed, 0 for those that are forecast.

    Raises:
        PlanError: a mask cannot say it: a policy decides in each run, guidance branches have steps of their own, or
            layers and spans rest while other blocks run.
    """
    if section.policy is not None:
        raise PlanError(f"policy {section.policy.name!r} decides in each run, a mask is the same for all of them")
    schedule = section.schedule
    masks = {tuple(int(schedule.palette[i].computes) for i in table) for table in schedule.tables.values()}
    if len(masks) > 1:
        raise PlanError(
            f"branches {', '.join(schedule.apart)} are computed on steps of their own, a mask is for all branches; "
            "search a plan with one table"
        )
    _check_whole(section)
    return list(masks.pop())


def _check_whole(section: NetworkPlan) -> None:
    """Raises PlanError unless all blocks, or all behind some that lead, rest on each step that is not computed."""
    tables = section.schedule.tables.values()
    named = {name for table in tables for i in table for name in section.schedule.palette[i].forecast}
    for name in sorted(named):
        if section.points[name].at.kind not in WHOLE:
            raise PlanError(
                f"point {name!r} at '{section.points[name].at}': cache-dit computes a step or lets all blocks behind "
                f"the first ones rest; export plans at {', '.join(WHOLE)}"
            )


def options(section: NetworkPlan) -> dict[str, Any]:
    """What ``cache_dit.load_configs`` reads, from a mapping or a YAML file, of which JSON is a part.

    A schedule becomes a mask with the policy *static*, the policy ``change_since_computed`` the dynamic rule that it is
    (without `max_computed`, for which cache-dit has no word). The forecasts become reuse or TaylorSeer, see
    `taylor_order`; certificate and quality are of the plan's own forecasts and say nothing of these. cache-dit always
    runs the first block, so a predicted step costs that much more than of a plan at ``trunk``.

    Raises:
        PlanError: cache-dit cannot do what the plan says.
    """
    leading = max((forecast.at.leading for forecast in section.points.values()), default=0)
    settings: dict[str, Any] = {
        "Fn_compute_blocks": max(1, leading),
        "Bn_compute_blocks": 0,
        "num_inference_steps": section.schedule.num_steps,
    }
    if section.policy is not None and section.policy.name == ChangeSinceComputed.name:
        settings |= _threshold(section.policy)
    else:
        mask = steps_mask(section)
        static = {"steps_computation_mask": mask, "steps_computation_policy": "static"}
        settings |= {"max_warmup_steps": [*mask, 0].index(0), **static}
    if order := taylor_order(section):
        settings |= {"enable_taylorseer": True, "taylorseer_order": order}
    return {"cache_config": settings}


def _threshold(spec: PolicySpec) -> dict[str, Any]:
    policy = ChangeSinceComputed(**spec.configuration)
    return {
        "residual_diff_threshold": policy.threshold,
        "max_warmup_steps": policy.warmup,
        "max_continuous_cached_steps": -1 if policy.consecutive is None else policy.consecutive,
    }


def taylor_order(section: NetworkPlan) -> int:
    """The order of TaylorSeer that stands for a section's forecasts: 0 where all are reuse, theirs where all are
    Taylor's, else 1."""
    solvers = {solver for point in section.points.values() for of in point.groups for _, solver in point.solvers(of)}
    orders = {0 if isinstance(s, Hold) else s.order if isinstance(s, Taylor) else 1 for s in solvers}
    return orders.pop() if len(orders) == 1 else 1


def section_of(configs: Mapping[str, Any], like: NetworkPlan) -> NetworkPlan:
    """cache-dit's configuration as a section of a plan.

    With a static mask that is a schedule; without a mask the policy ``change_since_computed``, which decides about
    every sample and lets a batch follow the one that changes most, where cache-dit decides by the mean over the batch.

    Args:
        configs: what ``cache_dit.load_configs`` gives: ``cache_config``, perhaps with ``calibrator_config``.
        like: a section of the network and the steps that it is for, at ``trunk`` or ``behind`` some blocks; `hand_plan`
            of `hyca_calib.pipelines.by_hand` makes one from a full run.

    Raises:
        PlanError: plans have no word for a setting; the message names it.
    """
    settings, steps = vars(configs["cache_config"]), like.schedule.num_steps
    for name, neutral in NEUTRAL.items():
        value = settings.get(name, neutral)
        if value != neutral and not (name.startswith("max_") and value is not None and value < 0):
            raise PlanError(f"cache-dit's {name}={value!r}: plans have no word for it, expected {neutral!r}")
    kind, count = str(settings["cache_type"]).rpartition(".")[2], settings.get("num_inference_steps")
    if kind != "DBCache":
        raise PlanError(f"cache-dit's {kind}: plans have no word for it, expected DBCache")
    if count is not None and count != steps:
        raise PlanError(
            f"cache-dit's num_inference_steps={count}, the plan to be like has {steps}; take one of {count}"
        )
    blocks, channels = int(settings["Fn_compute_blocks"]), _channels(like)
    group = DimensionGroup(
        name="all", channels=encode_channels(range(channels)), solver=_solver(configs.get("calibrator_config")).spec()
    )
    point = Forecast(
        at=parse_point(f"behind:{blocks}"), num_channels=channels, groups={EVERY: (group,)}, numel=like.forecast.numel
    )
    schedule, policy = _decided(settings, steps, blocks)
    axis = {"axis": "step", "axis_times": tuple(float(step) for step in range(steps))}
    return NetworkPlan(
        component=like.component,
        model=like.model,
        grid=like.grid.model_copy(update=axis),
        points={FEATURE: point},
        schedule=schedule,
        policy=policy,
        stacked=like.stacked,
    )


def _channels(like: NetworkPlan) -> int:
    at: CachePoint = like.forecast.at
    if at.kind not in ("trunk", "behind"):
        raise PlanError(
            f"expected a section at trunk or behind some blocks, whose channels are cache-dit's, got '{at}'"
        )
    return like.forecast.num_channels


def _solver(calibrator: Any) -> Solver:
    """What forecasts as a calibrator does, with steps as time."""
    if calibrator is None or not calibrator.enable_calibrator:
        return Hold()
    kind, kept = calibrator.calibrator_type, calibrator.calibrator_cache_type
    if kind != "taylorseer" or kept != "residual":
        raise PlanError(f"cache-dit's calibrator {kind!r} of {kept!r}: expected none, or 'taylorseer' of 'residual'")
    try:
        return Taylor(calibrator.taylorseer_order) if calibrator.taylorseer_order else Hold()
    except ValueError as error:
        raise PlanError(f"cache-dit's taylorseer_order: {error}") from error


def _decided(settings: Mapping[str, Any], steps: int, blocks: int) -> tuple[Schedule, PolicySpec | None]:
    """Which steps are computed, or what decides about them."""
    mask = settings.get("steps_computation_mask")
    if mask is not None:
        if settings["steps_computation_policy"] != "static" or len(mask) != steps:
            told = f"{settings['steps_computation_policy']!r} with {len(mask)} entries"
            raise PlanError(f"cache-dit's steps_computation_mask is {told}, expected 'static' with {steps}")
        return Schedule.from_steps(steps, [step for step, computed in enumerate(mask) if computed]), None
    threshold, often = float(settings["residual_diff_threshold"]), int(settings["max_continuous_cached_steps"])
    if threshold >= 1:  # it then never looks
        raise PlanError(
            f"cache-dit's residual_diff_threshold={threshold:g} computes nothing after the warm-up: say a mask"
        )
    warmup, consecutive = int(settings["max_warmup_steps"]), None if often < 0 else often
    try:
        return Schedule.from_steps(steps, [0]), ChangeSinceComputed(threshold, blocks, warmup, consecutive).spec()
    except ValueError as error:
        raise PlanError(f"cache-dit's residual_diff_threshold={threshold:g}: {error}") from error

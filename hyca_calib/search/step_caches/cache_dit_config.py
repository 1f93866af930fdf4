"""cache-dit's configurations as plans; plans as its configurations are `hyca_runtime.integrations.cache_dit`."""

from collections.abc import Mapping
from typing import Any

from hyca_runtime.errors import PlanError
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import parse_point
from hyca_runtime.policies import ChangeSinceComputed, PolicySpec
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Hold, Solver, Taylor

NEUTRAL: Mapping[str, Any] = {
    "Bn_compute_blocks": 0,
    "warmup_interval": 1,
    "max_cached_steps": -1,
    "max_accumulated_residual_diff_threshold": None,
    "cfg_diff_compute_separate": True,
    "force_refresh_step_hint": None,
}
"""Settings of cache-dit that plans have no word for, with the value that does nothing."""


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
    at = like.forecast.at
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

"""cache-dit: schedules of plans as its step masks.

A mask says *when* the network is computed, not how features are forecast; that is left to cache-dit's own
calibrators, or to the plan's weights (`hyca_runtime.integrations.cache_dit_taps`)::

    import cache_dit
    from hyca_runtime import load_plan
    from hyca_runtime.integrations.cache_dit import options

    cache_dit.enable_cache(pipe, **cache_dit.load_configs(options(load_plan("plan.json").section)))
"""

from __future__ import annotations

from typing import Any

from hyca_runtime.errors import PlanError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies import ChangeSinceComputed, PolicySpec
from hyca_runtime.schedule import DEFAULT
from hyca_runtime.solvers import Hold, Taylor

WHOLE = ("trunk", "output", "behind", "blocks")
"""Kinds of points of which all blocks, or all behind the leading ones, rest together."""


def steps_mask(section: NetworkPlan) -> list[int]:
    """``steps_computation_mask``: 1 for every step that is computed, 0 for those that are forecast.

    Raises:
        PlanError: a mask cannot say it: a policy decides in each run, guidance branches have steps of their own,
            layers and spans rest while other blocks run, or see `_check_plain`.
    """
    _check_plain(section)
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


def _check_plain(section: NetworkPlan) -> None:
    """Raises PlanError of what other hosts have no word for: videos in chunks, and quantised steps."""
    odd = {
        "chunks": section.chunks is not None,
        "variants": any(a.variant != DEFAULT for a in section.schedule.palette),
    }
    if told := [name for name, there in odd.items() if there]:
        raise PlanError(f"the plan's {told[0]} cannot be said to another cache; apply the plan with hyca_runtime")


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
    _check_plain(section)
    leading = max(section.probes, *(forecast.at.leading for forecast in section.points.values()))
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

"""A plan's own weights inside cache-dit, as one of its calibrators.

cache-dit calls what forecasts a calibrator, and makes it by a factory with a fixed list of names. `configs` therefore
puts a factory in its place that knows one configuration more and hands on all others::

    cache_dit.enable_cache(pipe, **configs(load_plan("plan.json").section))

cache-dit then computes the plan's steps, plus the first blocks on every step, and forecasts by the plan's rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from hyca_runtime.combine import forecast
from hyca_runtime.errors import PlanError, PlanMismatchError
from hyca_runtime.feature import Feature
from hyca_runtime.history import History
from hyca_runtime.integrations.cache_dit import options
from hyca_runtime.integrations.hosts import host_module
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.placed_weights import PlacedWeights
from hyca_runtime.solvers import AdaptiveSolver

FACTORY = "cache_dit.caching.cache_contexts.cache_context"
"""Where cache-dit looks its factory up."""


class PlanCalibrator:
    """Forecasts one guidance branch by the rows of a plan; its methods are those of cache-dit's ``CalibratorBase``."""

    def __init__(self, section: NetworkPlan) -> None:
        self._section, self._step = section, -1
        self._taps, self._depth = section.taps(), section.depth()
        self._histories: dict[str, History] = {}
        self._weights = PlacedWeights()

    def reset_cache(self) -> None:
        """Forget the run."""
        self._step = -1
        self._histories.clear()

    def mark_step_begin(self) -> None:
        """Go on to the next step, before either of the other two is called."""
        self._step += 1

    def update(self, Y: Tensor, name: str = "default") -> None:  # noqa: N803  # cache-dit's name
        """Remember what a step computed, ``(batch, tokens, channels)``."""
        self._histories.setdefault(name, History(self._depth)).push(self._step, Feature((Y,)))

    def approximate(self, name: str = "default") -> Tensor:
        """The forecast for a step that is not computed, in the shape of what was.

        Raises:
            PlanMismatchError: other steps than the plan's were computed before.
        """
        row, history = self._taps.get(self._step), self._histories[name]
        if row is None or history.positions[: len(row.history)] != row.history:
            raise PlanMismatchError(
                f"step {self._step} is to be forecast from the steps {history.positions}, the plan has no row for it; "
                "let cache-dit follow the plan's mask: enable_cache(pipe, **configs(section))"
            )
        weights = self._weights.get(self._step, lambda: row.weights, history, self._section.forecast.at.channel_axis)
        return forecast(history.past(), weights)[0]


@dataclass(frozen=True)
class PlanCalibratorConfig:
    """Stands for cache-dit's ``CalibratorConfig``, whose fields these are but the first."""

    section: NetworkPlan
    calibrator_cache_type: Literal["residual", "hidden_states"]
    enable_calibrator: bool = True
    enable_encoder_calibrator: bool = False
    calibrator_type: str = "hyca"

    def strify(self, **_: Any) -> str:
        """What its summaries say."""
        return "HyCa"


def configs(section: NetworkPlan) -> dict[str, Any]:
    """Keywords of ``cache_dit.enable_cache`` by which it follows a plan's schedule and forecasts by its rows.

    Of a section at ``behind`` N blocks, N run on every step and what the others add is forecast; of one at ``trunk``
    the first block runs on every step, for nothing, and what the last one makes is forecast. Both give what the plan
    gives where cache-dit sees one list of blocks, as of FLUX.1, Wan and DiT.

    Raises:
        PlanError: the plan is at another point, weighs more than the own past of a branch, has rows for guidance
            branches of their own or such that read features, or its schedule is no mask.
        AttachError: cache-dit is not installed.
    """
    at = section.forecast.at
    if section.policy is not None or str(at) not in ("trunk", f"behind:{at.leading}"):
        decided = "" if section.policy is None else f" under the policy {section.policy.name!r}"
        raise PlanError(
            f"expected a schedule at trunk or behind some blocks, got '{at}'{decided}; export the mask alone"
        )
    if section.is_joint or section.branches:
        raise PlanError(
            "the plan treats guidance branches apart or weighs more than the own past of each, and cache-dit does not "
            "tell calibrators of branches; export the mask alone"
        )
    if any(isinstance(solver, AdaptiveSolver) for _, solver in section.forecast.solvers()):
        raise PlanError("the plan's solvers read features, which a calibrator has no rows for; export the mask alone")
    host = host_module("cache_dit", "cache-dit")
    _teach(host_module(FACTORY, "cache-dit"))
    settings = {k: v for k, v in options(section)["cache_config"].items() if "taylorseer" not in k}
    kept: Literal["residual", "hidden_states"] = "residual" if at.kind == "behind" else "hidden_states"
    return {
        "cache_config": host.DBCacheConfig(**settings),
        "calibrator_config": PlanCalibratorConfig(section, kept),
    }


def _teach(module: Any) -> None:
    """Let cache-dit's factory know `PlanCalibratorConfig`; a second call does nothing."""
    inner = module.Calibrator
    if getattr(inner, "knows_plans", False):
        return

    def calibrator(calibrator_config: Any) -> Any:
        if isinstance(calibrator_config, PlanCalibratorConfig):
            return PlanCalibrator(calibrator_config.section)
        return inner(calibrator_config)

    calibrator.knows_plans = True  # type: ignore[attr-defined]
    module.Calibrator = calibrator

"""All baselines by name, with the settings of the table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from hyca_calib.pipelines.around import named_context, pipeline_around
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import apply_plan
from hyca_runtime.point import CachePoint
from studies.zoo.baselines.applied import COMPUTED, Applied, Baseline, Call, Way, bare_outputs
from studies.zoo.baselines.cache_dit import dual_block, dual_block_taylor
from studies.zoo.baselines.diffusers_caches import THRESHOLDS, first_block, mag, taylor, taylor_blocks, taylor_lite
from studies.zoo.check import STEPS


def _own(_: nn.Module) -> list[Way]:
    def apply(module: nn.Module, calls: Sequence[Call]) -> Applied:
        plan = hand_plan(module, CachePoint(kind="trunk"), lambda: bare_outputs(module, calls), lambda _: COMPUTED)
        session = apply_plan(module, plan, on_mismatch="error")

        @contextmanager
        def told(step: int) -> Iterator[None]:
            with named_context(module), session.at(step=step):
                yield

        return Applied(
            pipeline_around(module, lambda _: named_context(module)), session.remove, pipeline_around(module, told)
        )

    return [Way(apply)]


BASELINES: dict[str, Baseline] = {
    "FirstBlockCache": Baseline(f"threshold, the first of {THRESHOLDS} at which something is spared", first_block),
    "MagCache": Baseline(
        f"threshold=1, max_skip_steps=1, retention_ratio=0.33, num_inference_steps={STEPS}, mag_ratios all 1", mag
    ),
    "TaylorSeer": Baseline(
        "cache_interval=2, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=float32", taylor
    ),
    "TaylorSeer lite": Baseline("the same, use_lite_mode=True", taylor_lite),
    "TaylorSeer blocks": Baseline("the same, cache_identifiers that name every block", taylor_blocks),
    "HyCa": Baseline(f"point trunk, steps {COMPUTED} computed, linear forecast of the others", _own, "hyca_runtime"),
    "DBCache": Baseline(
        "Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=10, max_warmup_steps=2, "
        f"max_continuous_cached_steps=1, num_inference_steps={STEPS}, enable_separate_cfg=False",
        dual_block,
        "cache_dit",
    ),
    "DBCache + TaylorSeer": Baseline(
        "the same, TaylorSeerCalibratorConfig(taylorseer_order=1)", dual_block_taylor, "cache_dit"
    ),
}

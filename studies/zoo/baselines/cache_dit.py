"""The columns of cache-dit, which is imported only when they run."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from hyca_calib.baselines.cache_dit import adapter_by_hand, carriers, forward_pattern, package
from hyca_calib.pipelines.around import named_context, pipeline_around
from hyca_runtime.attach.points import Place
from studies.zoo.baselines.applied import Applied, Call, Way
from studies.zoo.check import STEPS


def dual_block(module: nn.Module) -> list[Way]:
    """DBCache, by itself and with its adapter written by hand."""
    return [_way(_itself, {}), *_by_hand(module, {})]


def dual_block_taylor(module: nn.Module) -> list[Way]:
    """DBCache whose cached residual is extrapolated by TaylorSeer."""
    forecast = {"taylorseer_order": 1}
    no_text = _way(_itself, {**forecast, "enable_encoder_calibrator": False}, "enable_encoder_calibrator=False")
    return [_way(_itself, forecast), no_text, *_by_hand(module, forecast)]


def _by_hand(module: nn.Module, forecast: Mapping[str, Any]) -> list[Way]:
    return [_way(partial(adapter_by_hand, lists), forecast, _told(lists)) for lists in carriers(module)]


def _way(target_of: Callable[[Any], Any], forecast: Mapping[str, Any], *notes: str) -> Way:
    cache_dit = package()

    def apply(module: nn.Module, _: Sequence[Call]) -> Applied:
        pipe = pipeline_around(module, lambda _: named_context(module))
        target = target_of(pipe)
        cache_dit.enable_cache(
            target,
            cache_config=cache_dit.DBCacheConfig(
                Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=10.0, max_warmup_steps=2,
                max_continuous_cached_steps=1, num_inference_steps=STEPS, enable_separate_cfg=False,
            ),
            calibrator_config=cache_dit.TaylorSeerCalibratorConfig(**forecast) if forecast else None,
        )  # fmt: skip
        return Applied(pipe, lambda: cache_dit.disable_cache(target))

    return Way(apply, notes)


def _itself(pipe: Any) -> Any:
    """cache-dit looks up its own adapter then."""
    return pipe


def _told(lists: Sequence[Place]) -> str:
    return "BlockAdapter by hand: " + " and ".join(f"{place.path} {forward_pattern(place)}" for place in lists)

"""cache-dit's DBCache, alone and with its calibrators, and its step masks; where cache-dit is installed."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any

from hyca_calib.peers.base import Peer
from hyca_calib.peers.cacheable import cacheable
from hyca_calib.rollout import sample_latents
from hyca_calib.workload import Job
from hyca_calib.zoo.peers.cache_dit import adapter_by_hand, carriers, package

__all__ = ["dual_block_peers", "masked"]

THRESHOLDS = (0.08, 0.12, 0.2, 0.3, 0.5, 0.8, 1.2)
WARMUP = 4
PROBE_STEPS = 4
MASKS = ("slow", "medium", "fast", "ultra")
CALIBRATORS: dict[str, Callable[[Any], Any]] = {
    "": lambda dit: None,
    " + TaylorSeer": lambda dit: dit.TaylorSeerCalibratorConfig(taylorseer_order=1),
    " + FoCa": lambda dit: dit.FoCaCalibratorConfig(),
    " + DMD": lambda dit: dit.DMDCalibratorConfig(),
}


def dual_block_peers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Peer]:
    """Every setting; none if cache-dit is not installed. `jobs` show whether guidance has calls of its own."""
    if importlib.util.find_spec("cache_dit") is None:
        return []
    separate = cache(lambda: _calls_per_step(pipe, jobs[:1]) > 1)
    found = []
    for name, threshold in itertools.product(CALIBRATORS, THRESHOLDS):
        options = {"residual_diff_threshold": threshold, "max_warmup_steps": WARMUP}
        method = partial(_enabled, pipe, num_steps, separate, name, options)
        found.append(Peer(f"DBCache{name} R={threshold:g}", f"DBCache{name}", num_steps, method))
    for name, mask in itertools.product(CALIBRATORS, MASKS):
        method = partial(_enabled, pipe, num_steps, separate, name, {"steps_computation_mask": mask})
        found.append(Peer(f"DBCache{name} mask {mask}", f"DBCache{name}", num_steps, method))
    return found


def masked(pipe: Any, num_steps: int, name: str, mask: Sequence[int]) -> AbstractContextManager[None]:
    """DBCache with the calibrator `name` on a network with one call a step, which computes the steps that are 1."""
    return _enabled(pipe, num_steps, lambda: False, name, {"steps_computation_mask": list(mask)})


@contextmanager
def _enabled(
    pipe: Any, num_steps: int, separate: Callable[[], bool], name: str, options: dict[str, Any]
) -> Iterator[None]:
    dit = package()
    if mask := options.get("steps_computation_mask"):
        table = dit.steps_mask(total_steps=num_steps, mask_policy=mask) if isinstance(mask, str) else mask
        options = {"steps_computation_mask": table, "steps_computation_policy": "static"}
    config = dit.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        num_inference_steps=num_steps,
        enable_separate_cfg=separate(),
        **options,
    )
    with cacheable(pipe.transformer) as transformer:
        adapter = adapter_by_hand(carriers(transformer)[0], pipe)
        dit.enable_cache(adapter, cache_config=config, calibrator_config=CALIBRATORS[name](dit))
        try:
            yield
        finally:
            dit.disable_cache(adapter)


def _calls_per_step(pipe: Any, jobs: Sequence[Job]) -> float:
    calls: list[None] = []
    counting = pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        sample_latents(pipe, jobs, PROBE_STEPS, 1)
    finally:
        counting.remove()
    return len(calls) / PROBE_STEPS

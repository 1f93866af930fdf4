"""cache-dit's DBCache, alone and with its calibrators, and its step masks; where cache-dit is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from hyca_calib.baselines.axes import INTERVALS, WARMUPS, AxisFrom, nearest
from hyca_calib.baselines.base import Axis, Family, Settings, Setup, ladder
from hyca_calib.baselines.cache_dit import adapter_by_hand, carriers, package
from hyca_calib.baselines.facts import observe
from hyca_calib.baselines.untouched import untouched
from hyca_runtime.attach.points import find_transformer

__all__ = ["CALIBRATORS", "dual_block_families", "masked"]

SOURCE = "cache-dit"
CALIBRATORS = ("", " + TaylorSeer", " + FoCa", " + DMD")
FIRST = (0.06, 0.12, 0.25, 0.5, 1.0, 3.0)
"""Thresholds that are tried at once."""
MASKS = ("slow", "medium", "fast", "ultra")


def dual_block_families(pipe: Any, setup: Setup) -> list[Family]:
    """Three of each calibrator: DBCache by its threshold, by cache-dit's step masks, by every N-th step."""
    missing = importlib.util.find_spec("cache_dit") is None
    refused = "cache-dit is not installed; install this project with its `bench` extra" if missing else ""
    separate = not missing and observe(pipe, setup).calls > 1
    blocks = sum(len(list(place.module.children())) for place in carriers(find_transformer(pipe))[0])
    return [
        family
        for calibrator in CALIBRATORS
        for family in (
            _thresholds(calibrator, setup, separate, blocks, refused),
            _masks(calibrator, setup, separate, refused),
            _intervals(calibrator, setup, separate, refused),
        )
    ]


def _thresholds(calibrator: str, setup: Setup, separate: bool, blocks: int, refused: str) -> Family:
    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        options = {
            "residual_diff_threshold": float(settings["R"]),
            "max_warmup_steps": int(settings["W"]),
            "Fn_compute_blocks": int(settings["F"]),
            "Bn_compute_blocks": int(settings["B"]),
            "max_continuous_cached_steps": int(settings["MC"]) if settings["MC"] != setup.num_steps else -1,
        }
        return _enabled(pipe, setup.num_steps, separate, calibrator, settings, options)

    thresholds = (*ladder(0.02, 3, 1.25), *ladder(5, 80, 2))
    counts = tuple(n for n in (1, 2, 4, 8, 16, 32) if n < blocks)
    axes = (
        Axis("R", thresholds, nearest(thresholds, FIRST)),
        AxisFrom("W", WARMUPS, (1, 5)),
        Axis("F", counts or (1,), (1,), closed=True),
        Axis("B", (0, *counts), (0,), closed=True),
        Axis("MC", (1, 2, 4, 8, setup.num_steps), (setup.num_steps,), closed=True),
        *_own_axes(calibrator),
    )
    return Family(
        f"DBCache{calibrator}",
        SOURCE,
        axes,
        apply,
        setup.num_steps,
        allows=lambda settings: int(settings["F"]) + int(settings["B"]) < blocks,
        refused=refused,
    )


def _masks(calibrator: str, setup: Setup, separate: bool, refused: str) -> Family:
    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        mask = package().steps_mask(total_steps=setup.num_steps, mask_policy=settings["mask"])
        return _enabled(pipe, setup.num_steps, separate, calibrator, settings, _by_mask(mask))

    axes = (Axis("mask", MASKS, ordered=False), *_own_axes(calibrator))
    return Family(f"DBCache{calibrator}, masks", SOURCE, axes, apply, setup.num_steps, refused=refused)


def _intervals(calibrator: str, setup: Setup, separate: bool, refused: str) -> Family:
    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        warmup, interval = int(settings["W"]), int(settings["N"])
        mask = [int(step < warmup or (step - warmup + 1) % interval == 0) for step in range(setup.num_steps)]
        return _enabled(pipe, setup.num_steps, separate, calibrator, settings, _by_mask(mask))

    axes = (AxisFrom("N", INTERVALS, (2, 4, 8, 24)), AxisFrom("W", WARMUPS, (1, 5)), *_own_axes(calibrator))
    return Family(f"DBCache{calibrator}, every N-th step", SOURCE, axes, apply, setup.num_steps, refused=refused)


def _own_axes(calibrator: str) -> tuple[Axis, ...]:
    if "TaylorSeer" in calibrator:
        return (AxisFrom("O", (1, 2, 3, 4, 5, 6, 8, 10), (1,)),)
    return (AxisFrom("H", (4, 5, 6, 8, 10, 13, 17, 22), (6,)),) if "DMD" in calibrator else ()


def _by_mask(mask: Sequence[int]) -> dict[str, Any]:
    return {"steps_computation_mask": list(mask), "steps_computation_policy": "static"}


def masked(pipe: Any, num_steps: int, calibrator: str, mask: Sequence[int]) -> AbstractContextManager[None]:
    """DBCache with a calibrator on a network with one call a step, which computes the steps that are 1."""
    return _enabled(pipe, num_steps, False, calibrator, {}, _by_mask(mask))


@contextmanager
def _enabled(
    pipe: Any, num_steps: int, separate: bool, calibrator: str, settings: Settings, options: Mapping[str, Any]
) -> Iterator[None]:
    dit = package()
    config = dit.DBCacheConfig(
        **{"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, **options},
        num_inference_steps=num_steps,
        enable_separate_cfg=separate,
    )
    calibrators = {
        "": lambda: None,
        " + TaylorSeer": lambda: dit.TaylorSeerCalibratorConfig(taylorseer_order=int(settings.get("O", 1))),
        " + FoCa": dit.FoCaCalibratorConfig,
        " + DMD": lambda: dit.DMDCalibratorConfig(dmd_history=int(settings.get("H", 6))),
    }
    with untouched(pipe):
        adapter = _adapter(pipe)
        dit.enable_cache(adapter, cache_config=config, calibrator_config=calibrators[calibrator]())
        try:
            yield
        finally:
            dit.disable_cache(adapter)


def _adapter(pipe: Any) -> Any:
    """cache-dit's own for the network's class, as its users get it; else one by hand."""
    own = package().get_adapter(pipe.transformer)
    if own is None:
        return adapter_by_hand(carriers(pipe.transformer)[0], pipe)
    own.pipe = pipe  # found by the network, it comes with a pipeline that never runs
    return own

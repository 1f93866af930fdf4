"""cache-dit's DBCache, alone and with its calibrators; the package is imported only where it is used."""

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from hyca_calib.baselines.base import INTERVALS, WARMUPS, Applied, Axis, Family, HalfOpenAxis, Settings, Setup, ladder
from hyca_calib.baselines.foreign_caches import untouched
from hyca_calib.baselines.full_run import observe
from hyca_runtime.attach.block_io import block_io
from hyca_runtime.attach.points import Place, find_block_lists, find_transformer

CALIBRATORS: dict[str, tuple[tuple[Axis, ...], Callable[[Any, Settings], Any]]] = {
    "": ((), lambda dit, settings: None),
    " + TaylorSeer": (
        (HalfOpenAxis("O", (1, 2, 3, 4, 5, 6, 8, 10), (1,)),),
        lambda dit, settings: dit.TaylorSeerCalibratorConfig(taylorseer_order=int(settings.get("O", 1))),
    ),
    " + FoCa": ((), lambda dit, settings: dit.FoCaCalibratorConfig()),
    " + DMD": (
        (HalfOpenAxis("H", (4, 5, 6, 8, 10, 13, 17, 22), (6,)),),
        lambda dit, settings: dit.DMDCalibratorConfig(dmd_history=int(settings.get("H", 6))),
    ),
}
"""What forecasts the cached residual: its own axes, and how cache-dit is told it."""


@dataclass(frozen=True)
class DualBlock:
    """DBCache with one calibrator on one model.

    Attributes:
        separate: whether guidance branches are calls one after the other.
    """

    calibrator: str
    num_steps: int
    separate: bool = False
    refused: str = ""

    def family(
        self,
        way: str,
        axes: Sequence[Axis],
        options: Callable[[Settings], Mapping[str, Any]],
        allows: Callable[[Settings], bool] = lambda settings: True,
    ) -> Family:
        """A way to choose the steps that are computed, by options of cache-dit."""

        def apply(pipe: Any, settings: Settings) -> Applied:
            return self.enabled(pipe, settings, options(settings))

        axes = (*axes, *CALIBRATORS[self.calibrator][0])
        name = f"DBCache{self.calibrator}{way}"
        return Family(name, "cache-dit", axes, apply, self.num_steps, allows=allows, refused=self.refused)

    @contextmanager
    def enabled(self, pipe: Any, settings: Settings, options: Mapping[str, Any]) -> Iterator[None]:
        """The pipeline with it; of the settings the calibrator's are read."""
        dit = package()
        config = dit.DBCacheConfig(
            **{"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, **options},
            num_inference_steps=self.num_steps,
            enable_separate_cfg=self.separate,
        )
        calibrator = CALIBRATORS[self.calibrator][1](dit, settings)
        with untouched(pipe):
            adapter = _adapter(pipe)
            dit.enable_cache(adapter, cache_config=config, calibrator_config=calibrator)
            try:
                yield
            finally:
                dit.disable_cache(adapter)


def dual_block_families(pipe: Any, setup: Setup) -> list[Family]:
    """Three of each calibrator: DBCache by its threshold, by cache-dit's step masks, by every N-th step."""
    missing = importlib.util.find_spec("cache_dit") is None
    refused = "cache-dit is not installed; install this project with its `bench` extra" if missing else ""
    separate = not missing and observe(pipe, setup).calls > 1
    blocks = sum(len(list(place.module.children())) for place in carriers(find_transformer(pipe))[0])
    return [
        family
        for calibrator in CALIBRATORS
        for family in _families(DualBlock(calibrator, setup.num_steps, separate, refused), blocks)
    ]


def _families(cache: DualBlock, blocks: int) -> tuple[Family, ...]:
    def by_threshold(settings: Settings) -> dict[str, Any]:
        return {
            "residual_diff_threshold": float(settings["R"]),
            "max_warmup_steps": int(settings["W"]),
            "Fn_compute_blocks": int(settings["F"]),
            "Bn_compute_blocks": int(settings["B"]),
            "max_continuous_cached_steps": int(settings["MC"]) if settings["MC"] != num else -1,
        }

    def by_policy(settings: Settings) -> dict[str, Any]:
        return by_mask(package().steps_mask(total_steps=num, mask_policy=settings["mask"]))

    def by_interval(settings: Settings) -> dict[str, Any]:
        warmup, interval = int(settings["W"]), int(settings["N"])
        return by_mask([int(step < warmup or (step - warmup + 1) % interval == 0) for step in range(num)])

    num = cache.num_steps
    counts = tuple(n for n in (1, 2, 4, 8, 16, 32) if n < blocks)
    axes = (
        Axis("R", (*ladder(0.02, 3, 1.25), *ladder(5, 80, 2)), (0.06, 0.12, 0.25, 0.5, 1.0, 3.0)),
        HalfOpenAxis("W", WARMUPS, (1, 5)),
        Axis("F", counts or (1,), (1,), closed=True),
        Axis("B", (0, *counts), (0,), closed=True),
        Axis("MC", tuple(sorted({1, 2, 4, 8, num})), (num,), closed=True),
    )
    intervals = (HalfOpenAxis("N", INTERVALS, (2, 4, 8, 24)), HalfOpenAxis("W", WARMUPS, (1, 5)))
    return (
        cache.family("", axes, by_threshold, lambda settings: int(settings["F"]) + int(settings["B"]) < blocks),
        cache.family(", masks", [Axis("mask", ("slow", "medium", "fast", "ultra"), ordered=False)], by_policy),
        cache.family(", every N-th step", intervals, by_interval),
    )


def by_mask(mask: Sequence[int]) -> dict[str, Any]:
    """Options of cache-dit to compute the steps that are 1."""
    return {"steps_computation_mask": list(mask), "steps_computation_policy": "static"}


def package() -> Any:
    """The package, whose import and use print nothing then."""
    level = os.environ.get("CACHE_DIT_LOG_LEVEL")
    os.environ["CACHE_DIT_LOG_LEVEL"] = "critical"
    logging.disable(logging.CRITICAL)
    try:
        return importlib.import_module("cache_dit")
    finally:
        logging.disable(logging.NOTSET)
        if level is None:
            del os.environ["CACHE_DIT_LOG_LEVEL"]
        else:
            os.environ["CACHE_DIT_LOG_LEVEL"] = level


def _adapter(pipe: Any) -> Any:
    """cache-dit's own for the network's class, as its users get it; else one by hand."""
    own = package().get_adapter(pipe.transformer)
    if own is None:
        return adapter_by_hand(carriers(pipe.transformer)[0], pipe)
    own.pipe = pipe  # found by the network, it comes with a pipeline that never runs
    return own


def adapter_by_hand(lists: Sequence[Place], pipe: Any) -> Any:
    """The adapter that a user writes for a network that cache-dit does not know."""
    cache_dit, network = package(), pipe.transformer
    return cache_dit.BlockAdapter(
        pipe=pipe,
        transformer=network,
        blocks=[network.get_submodule(place.path) for place in lists],
        forward_pattern=[getattr(cache_dit.ForwardPattern, forward_pattern(place)) for place in lists],
        check_forward_pattern=False,
    )


def carriers(module: nn.Module) -> list[list[Place]]:
    """The lists of blocks that carry the latents: all together, then the last alone."""
    lists = [p for p in find_block_lists(module) if p.parent is module and not re.search("refiner|text|vace", p.name)]
    return [part for part in (lists, lists[-1:] if len(lists) > 1 else []) if part]


def forward_pattern(blocks: Place) -> str:
    """The pattern of a list of blocks by what they return."""
    returns = block_io(next(iter(blocks.module.children()))).returns
    if len(returns) == 1:
        return "Pattern_3"
    return "Pattern_1" if returns[0] == "encoder_hidden_states" else "Pattern_0"

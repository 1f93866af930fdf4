"""Where a plan is taken to: what differs from the runs it was made on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from hyca_calib.demo.emoji.pipeline import PATCH, EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from studies.paper.chapter import Context
from studies.paper.transfers.tuned import fine_tuned
from studies.paper.transfers.verdicts import OWN_PROMPTS, UNSEEN

STEP_SHARES = (0.4, 0.56, 0.8, 2.0)
"""Steps over those of the plan: 20, 28, 40 and 100 of 50."""
GUIDANCE = ("true_cfg_scale", "guidance_scale")
SCALES = (1.0, 2.5)
LARGER = 1.5
SAMPLES, FEWEST = 38, 7
TUNING = 240
"""Iterations of fine-tuning."""
HOME = "its own"

Kind = Literal["nothing", "samples", "steps", "guidance", "resolution", "weights"]
"""What differs from the runs the plan was made on."""


@dataclass(frozen=True)
class Situation:
    """A pipeline and what it is asked for.

    Attributes:
        pipe: makes or gives the pipeline.
    """

    name: str
    kind: Kind
    pipe: Callable[[], Any]
    workload: Workload

    @property
    def slug(self) -> str:
        """Its name as part of a file's name."""
        return "".join(c if c.isalnum() else "-" for c in self.name)


def situations(context: Context) -> list[Situation]:
    """All that the pipeline can be taken to."""
    own = replace(context.workload, num_samples=FEWEST if context.quick else SAMPLES)
    seen, unseen = (tuple(job.call for job in context.workload.of(split)) for split in ("fit", "test"))

    def here(name: str, kind: Kind, **changed: Any) -> Situation:
        return Situation(name, kind, lambda: context.pipe, replace(own, **changed))

    def asked(**more: Any) -> tuple[dict[str, Any], ...]:
        return tuple(call | more for call in own.prompts)

    shares = STEP_SHARES[-1:] if context.quick else STEP_SHARES
    counts = [max(4, round(share * own.num_steps)) for share in shares]
    found = [
        here(HOME, "nothing"),
        here(OWN_PROMPTS, "samples", prompts=seen, seed=own.seed + 1),
        here(UNSEEN, "samples", prompts=unseen, seed=own.seed + 1),
        *(here(f"{count} steps", "steps", num_steps=count) for count in counts),
    ]
    options = inspect.signature(type(context.pipe).__call__).parameters
    for name in (name for name in GUIDANCE if name in options):
        usual = own.prompts[0].get(name, options[name].default)
        found += [
            here(f"guidance {scale:g}", "guidance", prompts=asked(**{name: scale}))
            for scale in SCALES
            if scale != usual
        ]
    if isinstance(context.pipe, EmojiPipeline):
        side = round(LARGER * context.pipe.config.image_size / PATCH) * PATCH
        found.append(here(f"{side} x {side} pixels", "resolution", prompts=asked(height=side, width=side)))
        found.append(replace(here("fine-tuned copy", "weights"), pipe=_copy(context)))
    return found


def _copy(context: Context) -> Callable[[], EmojiPipeline]:
    return partial(
        fine_tuned,
        context.pipe,
        context.workload.of("fit"),
        4 if context.quick else TUNING,
        context.seed,
        context.folder / "fine-tuned.safetensors",
    )

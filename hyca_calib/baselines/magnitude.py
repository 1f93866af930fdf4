"""The calibration that MagCache (arXiv 2506.09045) asks for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.point import CachePoint

__all__ = ["magnitude_ratios"]


def magnitude_ratios(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[float]:
    """Norm of the block stack's residual over that of the step before; 1 for the first step.

    The mean over tokens, `jobs` and guidance branches.
    """
    module = find_transformer(pipe)
    first = find_blocks(module)[0].module
    norms: dict[str | None, list[Tensor]] = {}
    attachment = Attachment(module, CachePoint(kind="trunk"))
    seen: list[Tensor] = []
    hook = first.register_forward_pre_hook(
        lambda _block, args, kwargs: seen.append(kwargs.get("hidden_states", args[0] if args else None)),
        with_kwargs=True,
    )

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, feature = attachment.compute(args, kwargs)
        if feature is not None:
            residual = feature[0] - seen.pop()
            norms.setdefault(attachment.context.branch, []).append(residual.float().norm(dim=-1))
        return output

    attachment.install(answer)
    try:
        sample_latents(pipe, jobs, num_steps, len(jobs))
    finally:
        attachment.remove()
        hook.remove()
    grown = [[(b / a.clamp(min=1e-8)).mean() for a, b in itertools.pairwise(of)] for of in norms.values()]
    return [1.0, *(torch.stack(step).mean().item() for step in zip(*grown, strict=True))]

"""How much of a disturbance of what a cache reuses is left in the final latents."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows
from hyca_calib.search.problem import Problem
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import Call, CallResolver
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.policies.mixed_granularity import BRANCH
from hyca_runtime.schedule import FEATURE
from hyca_runtime.stacked import parted, stacked_labels

SIZE = 0.02
"""Of the disturbance: its mean absolute value over that of what is disturbed."""


def effects(
    pipe: Any,
    problem: Problem,
    points: Mapping[str, CachePoint],
    lead: str | None,
    job: Job,
    size: float = SIZE,
) -> Rows:
    """The relative change of one sample's final latents over that of what is disturbed, for each granularity.

    Gaussian noise of matched relative size is added on every step to the output, to the difference of other guidance
    branches' outputs to that of `lead`, or to what the blocks add.

    Args:
        points: of each granularity.
        size: of the noise, in the mean of absolute values.
    """
    steps = problem.workload.num_steps
    full = sample_latents(pipe, [job], steps, 1)
    found: Rows = {}
    for granularity, point in points.items():
        disturbed = _Disturbed(pipe, problem, point, lead if granularity == BRANCH else None, size, job.index)
        latents = disturbed.sample(job, steps)
        found[granularity] = [[float((latents - full).abs().mean() / full.abs().mean().clamp_min(1e-12)) / size]]
    return found


class _Disturbed:
    """A pipeline of which what is reused at a point is disturbed, or the difference to a branch that leads."""

    def __init__(
        self,
        pipe: Any,
        problem: Problem,
        point: CachePoint,
        lead: str | None,
        size: float,
        seed: int,
    ) -> None:
        self._pipe, self._lead, self._stacked, self._size = pipe, lead, problem.trace.stacked, size
        module = find_transformer(pipe, problem.trace.attributes.model.component)
        self._attachment = Attachment(module, point)
        self._resolver = CallResolver(Clock(module, pipe))
        self._noise = torch.Generator().manual_seed(seed)
        self._leads: dict[int, Feature] = {}

    def sample(self, job: Job, steps: int) -> Tensor:
        """The final latents."""
        self._attachment.install(outside_inference_mode(self._answer))
        try:
            return sample_latents(self._pipe, [job], steps, 1)
        finally:
            self._attachment.remove()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, captured = self._attachment.run(args, kwargs, (FEATURE,), {})
        feature = captured[FEATURE]
        if feature is None:
            return output
        call = self._resolver.resolve(args, kwargs, self._attachment.context.said.branch)
        made = self._noisy(feature, feature) if self._lead is None else self._noisy_difference(feature, call)
        return self._attachment.run(args, kwargs, (), {FEATURE: made})[0]

    def _noisy_difference(self, feature: Feature, call: Call) -> Feature:
        """The outputs of a call, of which those that follow another are disturbed by the size of the difference."""
        pieces = [feature] if self._stacked == 1 else parted(feature, self._stacked)
        branches = dict(zip(stacked_labels(call.branch, self._stacked), pieces, strict=True))
        if (leads := branches.get(str(self._lead))) is not None:
            self._leads[call.part] = leads
        lead, made = self._leads.get(call.part), list[Feature]()
        for branch, piece in branches.items():
            if piece is None or lead is None:
                return feature
            gap = Feature(mine - theirs for mine, theirs in zip(piece, lead, strict=True))
            made.append(piece if branch == self._lead else self._noisy(piece, gap))
        return Feature(map(torch.cat, zip(*made, strict=True)), feature.form) if len(made) > 1 else made[0]

    def _noisy(self, feature: Feature, reused: Feature) -> Feature:
        return Feature(map(self._disturbed, feature, reused), feature.form)

    def _disturbed(self, part: Tensor, reused: Tensor) -> Tensor:
        """With noise of the relative size; that of a normal number is the square root of 2 / pi on average."""
        scale = self._size * math.sqrt(math.pi / 2) * reused.float().abs().mean()
        noise = torch.randn(part.shape, generator=self._noise).to(part.device)
        return (part.float() + scale * noise).to(part.dtype)

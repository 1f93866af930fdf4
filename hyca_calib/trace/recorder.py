"""Watching a pipeline sample: features, times, costs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hyca_calib.costs.flops import CostModel, count_flops, measure_seconds
from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.trace.guidance import GuidanceWatch
from hyca_calib.trace.recorded_call import RecordedCall, by_branch_and_step, joined
from hyca_calib.trace.stacked import repeats, stacked_branches, taken_apart
from hyca_calib.trace.statistics import choose_tokens
from hyca_calib.trace.tail_gain import Tail
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import CallResolver
from hyca_runtime.errors import TraceError
from hyca_runtime.feature import Feature, widths
from hyca_runtime.point import CachePoint


@dataclass(frozen=True)
class Recording:
    """One batch of samples, watched.

    Attributes:
        branches: guidance branches, in the order of their first call.
        stacked: how many of them each call holds, side by side in its batch.
        guidance: weight of each branch in what the sampler steps with; empty where that is not known.
        timesteps: what the network was called with, one for each step.
        scheduler_timesteps: the scheduler's own on those steps; empty where it does not say them.
        features: ``[branch][step]``, one ``(sample, token, channel)`` for each part, on the device; of very
            many tokens a random subset.
        tokens: ``[branch][part]``, which tokens those are.
        num_tokens: ``[branch][part]``, how many one sample has.
        gains: ``[branch][step]``, each ``(channel,)``: mean squared change of the network's output
            per squared change of the feature, channels of all parts.
        first_computed: first steps that a plan must compute: two where the first one also fills a cache of keys.
        latents: final latents ``(sample, ...)``.
        scheduler: a copy of the pipeline's as it was before the first step.
    """

    branches: list[str]
    stacked: int
    guidance: list[float]
    timesteps: list[float]
    scheduler_timesteps: list[float]
    features: list[list[Feature]]
    tokens: list[list[np.ndarray]]
    num_tokens: list[list[int]]
    gains: list[list[Tensor]]
    first_computed: int
    latents: Tensor
    scheduler: Any


class Recorder:
    """Runs a pipeline in full and keeps what its cache point shows. A context manager.

    Args:
        pipe: a diffusers pipeline.
        point: where the feature is taken.
        most_tokens: of more tokens in one call a random subset is kept.
        seed: of that subset.
        component: which of the pipeline's networks is watched.
    """

    def __init__(
        self, pipe: Any, point: CachePoint, most_tokens: int, seed: int = 0, component: str = "transformer"
    ) -> None:
        self._pipe = pipe
        self.module = find_transformer(pipe, component)
        self._attachment = Attachment(self.module, point)
        self._clock = Clock(self.module, pipe)
        self._most_tokens, self._seed = most_tokens, seed
        self._noise = torch.Generator("cpu")
        self._with_gain = True
        self._num_samples, self._watch = 1, GuidanceWatch(1)
        self._resolver = CallResolver(self._clock)
        self._calls: list[RecordedCall] = []
        self._scheduler: Any = None
        self._numel: dict[str, int] = {}
        self._sample_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.module.parameters()).device

    @property
    def saw_a_call(self) -> bool:
        """Whether the network was called since this was made."""
        return self._sample_call is not None

    def __enter__(self) -> Self:
        self._attachment.install(outside_inference_mode(self._answer))
        return self

    def __exit__(self, *exc: object) -> None:
        self._attachment.remove()

    def record(self, jobs: Sequence[Job], num_steps: int, seed: int, with_gain: bool = True) -> Recording:
        """Sample `jobs` in one batch.

        Args:
            seed: of the random directions of the gain.
            with_gain: else it is zero; measuring it costs a gradient through the tail at every step.

        A branch that is not called on every step (guidance within an interval) is left out. Where one call
        of the pipeline denoises several times (chunks, sections), the tokens of all are put together.

        Raises:
            TraceError: the network was not called, or no branch on every step.
        """
        self._calls.clear()
        self._num_samples, self._watch = len(jobs), GuidanceWatch(len(jobs))
        self._resolver = CallResolver(self._clock)
        self._numel.clear()
        self._noise.manual_seed(seed)
        self._with_gain = with_gain
        with self._watch.watching(getattr(self._pipe, "scheduler", None)):
            latents = sample_latents(self._pipe, jobs, num_steps, len(jobs))
        calls, self._calls = self._calls, []
        stacked = stacked_branches(calls)
        branches = by_branch_and_step([one for c in calls for one in taken_apart(self._cut(c, calls), stacked)])
        features = [[joined(step, len(jobs)) for step in steps] for steps in branches.values()]
        tokens = [self._tokens(steps[0], len(jobs)) for steps in branches.values()]
        first = [step[0] for step in next(iter(branches.values()))]
        scheduler_times = [call.scheduler_time for call in first if call.scheduler_time is not None]
        return Recording(
            branches=list(branches),
            stacked=stacked,
            guidance=self._watch.weights([*branches]),
            timesteps=[call.time for call in first],
            scheduler_timesteps=scheduler_times if len(scheduler_times) == len(first) else [],
            features=features,
            tokens=[chosen for chosen, _ in tokens],
            num_tokens=[counts for _, counts in tokens],
            gains=[[torch.cat([c.gain for c in step]).mean(0) for step in steps] for steps in branches.values()],
            first_computed=1 + any(call.fills_cache for call in calls),
            latents=latents,
            scheduler=self._scheduler,
        )

    def measure_cost(self, jobs: Sequence[Job], num_calls: int) -> CostModel:
        """Count and time a full and a predicted step, of so many calls, on the latest recorded call."""
        if self._sample_call is None:
            raise TraceError("nothing was recorded yet, so no step can be measured")
        (args, kwargs), samples = self._sample_call, len(jobs)
        with torch.no_grad():
            feature = self._attachment.compute(args, kwargs)[1] or Feature(())
            full = count_flops(lambda: self._attachment.compute(args, kwargs))
            tail = count_flops(lambda: self._attachment.predict(feature, args, kwargs))
            full_seconds = measure_seconds(lambda: self._attachment.compute(args, kwargs))
            tail_seconds = measure_seconds(lambda: self._attachment.predict(feature, args, kwargs))
        each = num_calls / samples
        return CostModel(
            full_flops=full * each,
            tail_flops=tail * each,
            feature_numel=round(sum(self._numel.values()) / samples),
            full_seconds=full_seconds * each,
            predicted_seconds=tail_seconds * each,
        )

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, feature = self._attachment.compute(args, kwargs)
        if feature is None:
            return output
        if not self._calls:
            self._scheduler = copy.deepcopy(getattr(self._pipe, "scheduler", None))
        call = self._resolver.resolve(args, kwargs, self._attachment.context.branch)
        track, fills_cache = self._resolver.track, self._clock.fills_cache(args, kwargs)
        time, _ = self._clock.timestep(args, kwargs).read()
        scheduler_time = self._clock.scheduler_time()
        feature = Feature((part.detach() for part in feature), feature.form)
        batch = self._clock.batch(args, kwargs)
        ordered = self._tokens_first(feature, batch)
        parts = self._parts(ordered, batch)
        gain = self._gain(feature, output, args, kwargs, parts)
        kept = Feature(part.clone() if fills_cache else self._kept(part) for part in ordered)
        counts = tuple(part.shape[1] for part in ordered)
        place = (call.branch, track.run, int(track.position))
        alike = repeats(args, kwargs, parts)
        self._calls.append(RecordedCall(*place, time, scheduler_time, kept, counts, gain, alike, fills_cache))
        self._watch.note(call.branch, output, parts)
        self._sample_call = (args, kwargs)
        self._numel[call.branch] = max(self._numel.get(call.branch, 0), sum(part.numel() for part in feature))
        return output

    def _parts(self, ordered: Feature, batch: int) -> int:
        """How many times all samples there are in a call's batch; once if that cannot be told."""
        whole = batch % self._num_samples == 0 and all(len(part) == batch for part in ordered)
        return batch // self._num_samples if whole else 1

    def _gain(self, feature: Feature, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any], parts: int) -> Tensor:
        """``(part, channel)``."""
        if not self._with_gain or self._attachment.point.kind == "output":
            channels = sum(widths(feature, self._attachment.point.channel_axis))
            return torch.full((parts, channels), float(self._with_gain), device=feature[0].device)
        tail = Tail(self._attachment, args, kwargs)
        gradient = tail.gradient(feature, self._noise, None if self._calls else output)
        ordered = self._tokens_first(gradient, self._clock.batch(args, kwargs))
        means = [of.float().square().reshape(parts, -1, of.shape[-1]).mean(1) for of in ordered]
        return torch.cat(means, dim=-1)

    def _tokens_first(self, feature: Feature, batch: int) -> Feature:
        """Parts as ``(batch, token, channel)``, wherever the batch is; without one, all tokens are one sample's."""
        found = []
        for part in feature:
            last = part.movedim(self._attachment.point.channel_axis, -1)
            axis = next((i for i, size in enumerate(last.shape[:-1]) if size == batch), None)
            first = last.movedim(axis, 0) if axis is not None else last[None]
            found.append(first.flatten(1, -2) if first.ndim > 2 else first[:, None])
        return Feature(found)

    def _kept(self, part: Tensor) -> Tensor:
        """A copy ``(batch, token, channel)`` of the tokens that are looked at; the network may reuse its memory."""
        if part.shape[1] <= self._most_tokens:
            return part.clone()
        chosen = torch.from_numpy(choose_tokens(part.shape[1], self._most_tokens, self._seed))
        return part.index_select(1, chosen.to(part.device))

    def _cut(self, call: RecordedCall, calls: Sequence[RecordedCall]) -> RecordedCall:
        """A call that fills a cache with only those of its tokens, the last, that later calls of its branch have."""
        if not call.fills_cache:
            return call
        later = (other for other in calls if other.branch == call.branch and not other.fills_cache)
        counts = next((other.num_tokens for other in later), call.num_tokens)
        parts = zip(call.feature, counts, strict=True)
        return replace(call, feature=Feature(self._kept(part[:, -n:]) for part, n in parts), num_tokens=counts)

    def _tokens(self, calls: Sequence[RecordedCall], num_samples: int) -> tuple[list[np.ndarray], list[int]]:
        """Which tokens of one sample `joined` holds, and how many there are, for each part."""
        chosen, counts = [], []
        for i in range(len(calls[0].feature)):
            pieces = [call.num_tokens[i] for call in calls for _ in range(len(call.feature[i]) // num_samples)]
            begins = np.cumsum([0, *pieces[:-1]])
            subsets = (choose_tokens(count, self._most_tokens, self._seed) for count in pieces)
            chosen.append(np.concatenate([begin + subset for begin, subset in zip(begins, subsets, strict=True)]))
            counts.append(sum(pieces))
        return chosen, counts

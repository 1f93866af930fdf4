"""Watching a pipeline sample: features, times, costs."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch

from hyca_calib.costs.flops import CostModel
from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.trace.guidance import GuidanceWatch
from hyca_calib.trace.looked_at import LookedAt, tokens_first
from hyca_calib.trace.recorded_call import RecordedCall, Shown, by_branch_and_step, joined
from hyca_calib.trace.recording import PointRecording, Recording
from hyca_calib.trace.request import point_key
from hyca_calib.trace.stacked import stacked_branches, taken_apart
from hyca_calib.trace.step_costs import measure_steps
from hyca_calib.trace.streamed import StreamedCalls, Which, is_asked, latest
from hyca_calib.trace.tail_gain import Tail
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.channel_axis import settle_axes
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import CallResolver
from hyca_runtime.errors import TraceError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.stacked import repeats


class Recorder:
    """Runs a pipeline in full and keeps what its cache points show. A context manager.

    Args:
        pipe: a diffusers pipeline.
        points: where features are taken; or one point.
        most_tokens: of more tokens in one call a random subset is kept.
        seed: of that subset.
        component: which of the pipeline's networks is watched.
        chunks: of a video whose calls hold several, each at a time of its own, those that are recorded.
    """

    def __init__(
        self,
        pipe: Any,
        points: CachePoint | Sequence[CachePoint],
        most_tokens: int,
        seed: int = 0,
        component: str = "transformer",
        chunks: Which = "all",
    ) -> None:
        points = [points] if isinstance(points, CachePoint) else points
        self._pipe = pipe
        self.module = find_transformer(pipe, component)
        self._attachment = Attachment(self.module, {point_key(point): point for point in points}, apart=False)
        self._clock = Clock(self.module, pipe)
        self._looked_at = LookedAt(most_tokens, seed)
        self._noise = {name: torch.Generator("cpu") for name in self._attachment.points}
        self._with_gain = True
        self._num_samples, self._watch = 1, GuidanceWatch(1)
        self._resolver = CallResolver(self._clock)
        self._streamed, self._which = StreamedCalls(self.module), chunks
        self._calls: list[RecordedCall] = []
        self._scheduler: Any = None
        self._numel = {name: dict[str, int]() for name in self._attachment.points}
        self._sample_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.module.parameters()).device

    @property
    def saw_a_call(self) -> bool:
        """Whether the network was called since this was made."""
        return self._sample_call is not None

    @property
    def latest_call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the latest call of the network that was recorded.

        Raises:
            TraceError: nothing was recorded yet.
        """
        if self._sample_call is None:
            raise TraceError("nothing was recorded yet, so no step can be measured")
        return self._sample_call

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
        of the pipeline denoises several times (chunks, sections), the tokens of all are put together. Of chunks that
        share calls each is one of these.

        Raises:
            TraceError: the network was not called, or no branch on every step.
        """
        self._calls.clear()
        self._streamed.clear()
        self._num_samples, self._watch = len(jobs), GuidanceWatch(len(jobs))
        self._resolver = CallResolver(self._clock)
        for name, noise in self._noise.items():
            noise.manual_seed(seed)
            self._numel[name].clear()
        self._with_gain = with_gain
        with self._watch.watching(getattr(self._pipe, "scheduler", None)):
            latents = sample_latents(self._pipe, jobs, num_steps, len(jobs))
        calls, self._calls = self._calls, []
        if chunks := self._streamed.chunks(self._which):
            calls = latest(calls)
        stacked = stacked_branches(calls)
        branches = by_branch_and_step([one for c in calls for one in taken_apart(self._cut(c, calls), stacked)])
        first = [step[0] for step in next(iter(branches.values()))]
        scheduler_times = [call.scheduler_time for call in first if call.scheduler_time is not None]
        return Recording(
            branches=list(branches),
            stacked=stacked,
            guidance=self._watch.weights([*branches]),
            timesteps=[call.time for call in first],
            scheduler_timesteps=scheduler_times if len(scheduler_times) == len(first) else [],
            points={name: self._of_point(name, [*branches.values()]) for name in self._attachment.points},
            first_computed=1 + any(call.fills_cache for call in calls),
            latents=latents,
            scheduler=self._scheduler,
            chunks=chunks,
        )

    def _of_point(self, name: str, branches: Sequence[Sequence[Sequence[RecordedCall]]]) -> PointRecording:
        """What the calls, ``[branch][step][pass or part]``, show at a point."""
        shown = [[[call.shown[name] for call in step] for step in steps] for steps in branches]
        tokens = [self._looked_at.of_sample(steps[0], self._num_samples) for steps in shown]
        return PointRecording(
            features=[[joined(step, self._num_samples) for step in steps] for steps in shown],
            tokens=[chosen for chosen, _ in tokens],
            num_tokens=[counts for _, counts in tokens],
            gains=[[torch.cat([call.gain for call in step]).mean(0) for step in steps] for steps in shown],
            channel_axis=self._attachment.points[name].channel_axis,
        )

    def measure_cost(self, jobs: Sequence[Job], num_calls: int) -> dict[str, CostModel]:
        """Count and time a full and a predicted step, of so many calls, on the latest recorded call; by point."""
        batch = len(jobs)
        numel = {name: round(sum(of.values()) / batch) for name, of in self._numel.items()}
        return measure_steps(self._attachment, self.latest_call, batch, num_calls, numel)

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, captured = self._attachment.run(args, kwargs, tuple(self._attachment.points), {})
        features = {
            name: Feature((part.detach() for part in feature), feature.form)
            for name, feature in captured.items()
            if feature is not None
        }
        if len(features) < len(captured):
            return output
        if not self._calls:
            settle_axes(self._attachment, features)
            self._scheduler = copy.deepcopy(getattr(self._pipe, "scheduler", None))
        call = self._resolver.resolve(args, kwargs, self._attachment.context.said.branch)
        batch = self._clock.batch(args, kwargs)
        parts = self._parts(
            {name: self._tokens_first(name, feature, batch) for name, feature in features.items()}, batch
        )
        squares = {
            name: self._squares(Tail(self._attachment, name, args, kwargs), feature, output)
            for name, feature in features.items()
        }
        alike = repeats(args, kwargs, parts)
        if pieces := self._streamed.pieces(getattr(self._pipe, "scheduler", None), args, kwargs):
            for piece in pieces:
                if is_asked(piece.chunk, self._which):
                    slopes, same = piece.of(squares), (parts, batch)
                    shown = {
                        name: self._shown(name, call.branch, feature, slopes[name], *same)
                        for name, feature in piece.of(features).items()
                    }
                    at = call.branch, piece.chunk, piece.step, piece.time, piece.scheduler_time
                    self._calls.append(RecordedCall(*at, shown, parts, alike, fills_cache=False))
                    self._sample_call = piece.call
            self._watch.note(call.branch, output, parts, in_frames=True)
            return output
        track, fills_cache = self._resolver.track, self._clock.fills_cache(args, kwargs)
        time, _ = self._clock.timestep(args, kwargs).read()
        shown = {
            name: self._shown(name, call.branch, feature, squares[name], parts, batch, fills_cache)
            for name, feature in features.items()
        }
        place = call.branch, track.run, int(track.position), time, self._clock.scheduler_time()
        self._calls.append(RecordedCall(*place, shown, parts, alike, fills_cache))
        self._watch.note(call.branch, output, parts)
        self._sample_call = (args, kwargs)
        return output

    def _shown(
        self,
        name: str,
        branch: str,
        feature: Feature,
        squares: Feature | None,
        parts: int,
        batch: int,
        whole: bool = False,
    ) -> Shown:
        """What a point shows of a call, and of the squares of its gradient.

        Args:
            whole: whether all tokens are looked at.
        """
        ordered = self._tokens_first(name, feature, batch)
        kept = Feature(part.clone() if whole else self._looked_at.of(part) for part in ordered)
        numel = self._numel[name]
        numel[branch] = max(numel.get(branch, 0), sum(part.numel() for part in ordered))
        if squares is None:
            channels = sum(part.shape[-1] for part in ordered)
            gain = torch.full((parts, channels), float(self._with_gain), device=ordered[0].device)
        else:
            slopes = self._tokens_first(name, squares, batch)
            gain = torch.cat([of.reshape(parts, -1, of.shape[-1]).nanmean(1) for of in slopes], dim=-1)
        return Shown(kept, tuple(part.shape[1] for part in ordered), gain)

    def _parts(self, ordered: Mapping[str, Feature], batch: int) -> int:
        """How many times all samples there are in a call's batch; once if that cannot be told."""
        lengths = {len(part) for feature in ordered.values() for part in feature}
        return batch // self._num_samples if lengths == {batch} and batch % self._num_samples == 0 else 1

    def _squares(self, tail: Tail, feature: Feature, output: Any) -> Feature | None:
        """What the gains of a call are the means of; None where they are not measured."""
        if not self._with_gain or self._attachment.points[tail.name].kind == "output":
            return None
        gradient = tail.gradient(feature, self._noise[tail.name], None if self._calls else output)
        return Feature((of.float().square() for of in gradient), gradient.form)

    def _tokens_first(self, name: str, feature: Feature, batch: int) -> Feature:
        return tokens_first(feature, self._attachment.points[name].channel_axis, batch)

    def _cut(self, call: RecordedCall, calls: Sequence[RecordedCall]) -> RecordedCall:
        """A call that fills a cache with only those of its tokens, the last, that later calls of its branch have."""
        if not call.fills_cache:
            return call
        later = next((o for o in calls if o.branch == call.branch and not o.fills_cache), call)
        shown = {name: self._looked_at.last(of, later.shown[name].num_tokens) for name, of in call.shown.items()}
        return replace(call, shown=shown)

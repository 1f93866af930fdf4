"""A network driven by a plan whose taps are a differentiable tensor."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import runs_on, sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.attending_again import attending_again
from hyca_calib.search.precision.straight_through import StraightThrough
from hyca_calib.search.rows import Regressor, Row, plan_taps, rows_of
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_point import Captured
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import CallResolver
from hyca_runtime.chunk_calls import ChunkCalls
from hyca_runtime.chunk_parts import ChunkCutter, WholeCalls
from hyca_runtime.combine import split_weights, weighted_sum
from hyca_runtime.errors import HycaError, PlanMismatchError
from hyca_runtime.feature import Feature, widths
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY
from hyca_runtime.stacked import joined, parts_of, stacked_labels
from hyca_runtime.variant import OWN, Weights


class NotDifferentiableError(RuntimeError):
    """No gradient of the final latent reaches the taps, though the same run without gradients works."""


@dataclass
class _Part:
    """A section that is followed, with taps ``(row, tap, channel)`` in place of its own."""

    section: NetworkPlan
    taps: Tensor

    def __post_init__(self) -> None:
        self.rows = {(row.point, row.branch, row.step): (i, row) for i, row in enumerate(rows_of(self.section))}


class TapRollout:
    """Drives a network by a plan, whose taps may be replaced by a differentiable tensor. A context manager.

    Of a video in chunks, each of which is answered on its own, the gradient of a chunk stays with its own forecasts:
    kept keys and values of others are constants.

    Args:
        checkpointed: whether every call of the network is computed again when its gradient is due.
        on_history: told the branch, the step and the features, newest first, before each forecast.
        whole_at: a step whose calls are kept whole all the same.
        around: see `Variants.wrap`.
        other_chunks: sections for chunks that `section` is not for, followed as they are.
    """

    def __init__(
        self,
        pipe: Any,
        section: NetworkPlan,
        checkpointed: bool,
        on_history: Callable[[str, int, Sequence[Feature]], None] = lambda branch, step, history: None,
        whole_at: int | None = None,
        around: Callable[[nn.Module, nn.Linear], nn.Module] = StraightThrough,
        other_chunks: Sequence[NetworkPlan] = (),
    ) -> None:
        module = find_transformer(pipe, section.component)
        self._checkpointed, self._on_history = checkpointed, on_history
        self._whole_at = whole_at
        self._attachment = Attachment(module, section.places, variants=section.variants)
        self._attachment.variants.wrap(around)
        self._clock = Clock(module, pipe)
        own = [torch.from_numpy(plan_taps(of)).float().to(runs_on(pipe)) for of in (section, *other_chunks)]
        self._parts = [_Part(of, taps) for of, taps in zip((section, *other_chunks), own, strict=True)]
        self._now = self._parts[0]
        self._chunks = self._by_chunk(module, section)
        self._frozen = [p for p in module.parameters() if p.requires_grad]
        self.follow(own[0])

    def _by_chunk(self, module: nn.Module, section: NetworkPlan) -> WholeCalls:
        """How calls are answered that hold a video in chunks."""
        if section.chunks is None or section.chunks.keys is None:
            return WholeCalls()
        cutter = ChunkCutter(module, section.chunks, [section.grid])
        return ChunkCalls(section.chunks, cutter, self._attachment, self._clock, lambda: 0, self._answer_placed)

    @property
    def _section(self) -> NetworkPlan:
        return self._now.section

    def __enter__(self) -> Self:
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self._attachment.install(outside_inference_mode(self._answer))
        self._chunks.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self._attachment.remove()
        self._chunks.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._histories.clear()

    def follow(self, taps: Tensor) -> None:
        """Forecast with these taps ``(row, tap, channel)`` in the runs to come; forget earlier runs.

        Where guidance branches have no names, every run brings its own: kept, their features would pin the heap.
        """
        self._parts[0].taps = taps
        self._resolvers = dict[int | None, CallResolver]()
        self._histories = dict[tuple[str, str, int], deque[tuple[int, Feature]]]()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._chunks.takes(args, kwargs):
            return self._chunks.answer(args, kwargs)
        return self._answer_placed(args, kwargs)

    def _answer_placed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chunk = self._attachment.context.said.chunk
        self._now = max(self._parts, key=lambda part: _begun(part.section, chunk))
        resolver = self._resolvers.setdefault(chunk, CallResolver(self._clock, [self._section.grid], chunk))
        call, track = resolver.resolve(args, kwargs, self._attachment.context.said.branch), resolver.track
        if isinstance(self._chunks, ChunkCalls):
            self._chunks.enter(call, (track, track.run))
        if call.progress == "begins":
            self._histories = {key: of for key, of in self._histories.items() if chunk and key[2] < chunk}
        if track.off_grid:
            raise PlanMismatchError(f"the pipeline left the plan's time grid: {track.off_grid}")
        step, labels = int(track.position), stacked_labels(call.branch, self._section.stacked)
        actions = [self._section.schedule.actions(label)[step] for label in labels]
        if len(set(actions)) == 1:
            return self._answer_alike(args, kwargs, labels, call.part, step)
        parts = parts_of(args, kwargs, len(labels))
        first = sorted(range(len(labels)), key=lambda i: not actions[i].computes)  # forecasts may weigh these
        outputs = {i: self._answer_alike(*parts[i], [labels[i]], call.part, step) for i in first}
        return joined([outputs[i] for i in range(len(labels))])

    def _answer_alike(self, args: Any, kwargs: Any, labels: Sequence[str], part: int, step: int) -> Any:
        """What the network says to a call whose branches all do the same."""
        action = self._section.schedule.actions(labels[0])[step]
        made = {name: _together([self._forecast(name, of, part, step) for of in labels]) for name in action.forecast}
        inject = {name: feature for name, feature in made.items() if feature is not None}
        if len(inject) < len(made):
            return self._run(step, args, kwargs, {}, ())[0]
        kept = tuple(name for name in self._section.points if self._section.keeps(action, name))
        weights = Weights(action.variant, step, self._section.schedule.turn(action.variant, step))
        output, found = self._run(step, args, kwargs, inject, kept, weights)
        for name, feature in found.items():
            parts = [Feature(of, feature.form) for of in zip(*(p.chunk(len(labels)) for p in feature), strict=True)]
            against = self._section.points[name].against
            for label, piece in sorted(zip(labels, parts, strict=True), key=lambda of: of[0] in against):
                self._remember(name, label, part, step, piece)
        return output

    def _remember(self, name: str, label: str, part: int, step: int, feature: Feature) -> None:
        """Keep what a branch computed, or its difference to another's newest where the plan says so."""
        empty = deque[tuple[int, Feature]](maxlen=self._section.depth(name))
        history = self._histories.setdefault((name, label, part), empty)
        lead = self._section.points[name].against.get(label)
        if lead is None:
            history.appendleft((step, feature))
        elif newest := self._histories.get((name, lead, part)):
            pairs = zip(feature, newest[0][1], strict=True)
            history.appendleft((step, Feature((mine - theirs for mine, theirs in pairs), feature.form)))
        else:
            history.clear()

    def _run(
        self,
        step: int,
        args: Any,
        kwargs: Any,
        inject: dict[str, Feature],
        capture: tuple[str, ...],
        weights: Weights = OWN,
    ) -> tuple[Any, dict[str, Feature]]:
        """The output of a call, and what it computed at some points."""

        def run() -> tuple[Any, Captured]:
            return self._attachment.run(args, kwargs, capture, inject, weights=weights)

        heavy = self._checkpointed and step != self._whole_at
        heavy = heavy and not any(self._section.points[name].at.skips_loop for name in inject)
        if heavy and isinstance(self._chunks, ChunkCalls):
            run = attending_again(self._chunks.attention, run)
        output, found = checkpoint(run, use_reentrant=False) if heavy else run()
        return output, {name: feature for name, feature in found.items() if feature is not None}

    def _row(self, name: str, label: str, step: int) -> tuple[int, Row] | None:
        """What forecasts a point of a branch on a step, and its number; None if nothing does."""
        return self._now.rows.get((name, label, step)) or self._now.rows.get((name, EVERY, step))

    def _forecast(self, name: str, label: str, part: int, step: int) -> Feature | None:
        """The feature of one branch; None if a past is not what its row weighs, as that of a branch that began late."""
        found = self._terms(name, label, part, step)
        if found is None:
            return None
        features, weights = found
        axis, first = self._section.points[name].at.channel_axis, features[0]
        pieces = split_weights(weights, widths(first, axis), [piece.ndim for piece in first], axis)
        parts = zip(*features, strict=True)
        return Feature((weighted_sum(of, weights) for of, weights in zip(parts, pieces, strict=True)), first.form)

    def _terms(self, name: str, label: str, part: int, step: int) -> tuple[list[Feature], Tensor] | None:
        """What a forecast is the sum of, with the weights ``(feature, channel)``; None if there is none, see above."""
        if (found := self._row(name, label, step)) is None:
            return None
        number, row = found
        pasts = {
            (branch, s): feature
            for (point, branch, of), history in self._histories.items()
            if (point, of) == (name, part)
            for s, feature in history
        }
        wanted = [_own(regressor, label) for regressor in row.regressors]
        own = [pasts[key] for key in wanted if key in pasts and key is not None and key[0] == label]
        if not own or any(key is not None and key not in pasts for key in wanted):
            return None
        self._on_history(label, step, own)
        ones = Feature((torch.ones_like(piece) for piece in own[0]), own[0].form)
        features = [ones if key is None else pasts[key] for key in wanted]
        weights = self._now.taps[number, : len(features), : self._section.points[name].num_channels]
        if (lead := self._section.points[name].against.get(label)) is None:
            return features, weights
        live = pasts.get((lead, step))
        base = self._terms(name, lead, part, step) if live is None else ([live], torch.ones_like(weights[:1]))
        return None if base is None else (features + base[0], torch.cat([weights, base[1]]))


def _begun(section: NetworkPlan, chunk: int | None) -> int:
    """From which chunk on a section is followed; below 0 where that is behind this one."""
    start = section.from_chunk or 0
    return start if start <= (chunk or 0) else -1


def _own(regressor: Regressor, label: str) -> Regressor:
    """A regressor by the branch that it is of."""
    return (label, regressor[1]) if regressor is not None and regressor[0] == EVERY else regressor


def _together(parts: Sequence[Feature | None]) -> Feature | None:
    """The branches of one call, stacked along its batch; None if one is missing."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    if len(there) == 1:
        return there[0]
    return Feature(map(torch.cat, zip(*there, strict=True)), there[0].form)


def activation_bytes(
    pipe: Any,
    section: NetworkPlan,
    num_steps: int,
    job: Job,
    checkpointed: bool = False,
    whole_at: int | None = None,
    other_chunks: Sequence[NetworkPlan] = (),
) -> int:
    """What autograd keeps of one sample's rollout; checkpointed, of what outlives a network call.

    Args:
        whole_at: a step whose calls are counted whole all the same, as when their gradient is due.
        other_chunks: see `TapRollout`.

    Raises:
        NotDifferentiableError: the pipeline detaches, changes in place what autograd needs, or has an operation
            without a derivative. What else fails, memory among it, is raised as it is.
    """
    kept = 0

    def weigh(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    taps = torch.from_numpy(plan_taps(section)).float().to(runs_on(pipe)).requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor)
    made = TapRollout(pipe, section, checkpointed, whole_at=whole_at, other_chunks=other_chunks)
    with made as rollout, torch.enable_grad():
        rollout.follow(taps)
        try:
            with hooks:
                latents = sample_latents(pipe, [job], num_steps, 1, with_grad=True)
            torch.autograd.grad(latents.sum(), taps)
        except (HycaError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, TypeError) as error:
            raise NotDifferentiableError(str(error).splitlines()[0][:160]) from error
    return kept

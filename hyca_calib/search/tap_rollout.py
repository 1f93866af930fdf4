"""A network driven by a plan whose taps are a differentiable tensor."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import device_of, sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.assemble import plan_taps
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import CallResolver
from hyca_runtime.combine import split_weights, weighted_sum
from hyca_runtime.feature import Feature, widths
from hyca_runtime.network_plan import NetworkPlan


class NotDifferentiableError(RuntimeError):
    """No gradient of the final latent reaches the taps, though the same run without gradients works."""


class TapRollout:
    """Drives a network by a plan, whose taps may be replaced by a differentiable tensor. A context manager.

    Args:
        on_history: told the branch, the step and the features, newest first, before each forecast.
    """

    def __init__(
        self,
        pipe: Any,
        section: NetworkPlan,
        checkpointed: bool,
        on_history: Callable[[str, int, Sequence[Feature]], None] = lambda branch, step, history: None,
    ) -> None:
        module = find_transformer(pipe, section.component)
        self._section, self._checkpointed, self._on_history = section, checkpointed, on_history
        self._attachment = Attachment(module, section.forecast.at)
        self._clock = Clock(module, pipe)
        self._row = {step: i for i, step in enumerate(section.schedule.predicted_steps)}
        self._frozen = [p for p in module.parameters() if p.requires_grad]
        self.follow(torch.from_numpy(plan_taps(section)).float().to(device_of(pipe)))

    def __enter__(self) -> Self:
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self._attachment.install(outside_inference_mode(self._answer))
        return self

    def __exit__(self, *exc: object) -> None:
        self._attachment.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._histories.clear()

    def follow(self, taps: Tensor) -> None:
        """Forecast with these taps ``(predicted step, depth, channel)`` in the runs to come; forget earlier runs.

        Where guidance branches have no names, every run brings its own: kept, their features would pin the heap.
        """
        self._taps, self._resolver = taps, CallResolver(self._clock, [self._section.grid])
        self._histories = dict[tuple[str, int], deque[tuple[int, Feature]]]()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._resolver.resolve(args, kwargs, self._attachment.context.branch)
        track = self._resolver.track
        if call.progress == "begins":
            self._histories.clear()
        if track.off_grid:
            raise RuntimeError(f"the pipeline left the plan's time grid: {track.off_grid}")
        key, step = (call.branch, call.part), int(track.position)
        history = self._histories.setdefault(key, deque(maxlen=self._section.depth()))
        if step in self._row and self._has(history, step):
            past = [feature for _, feature in history]
            self._on_history(call.branch, step, past)
            return self._attachment.predict(self._forecast(step, past), args, kwargs)
        if self._checkpointed:
            output, feature = checkpoint(self._attachment.compute, args, kwargs, use_reentrant=False)
        else:
            output, feature = self._attachment.compute(args, kwargs)
        if step not in self._row:
            history.appendleft((step, feature))
        return output

    def _has(self, history: Sequence[tuple[int, Feature]], step: int) -> bool:
        """Whether a history is what a forecast takes; that of a branch that began late is not yet."""
        wanted = self._section.taps()[step].history
        return tuple(position for position, _ in history)[: len(wanted)] == wanted

    def _forecast(self, step: int, past: Sequence[Feature]) -> Feature:
        used = len(self._section.taps()[step].history)
        axis = self._section.forecast.at.channel_axis
        pieces = split_weights(
            self._taps[self._row[step], :used], widths(past[0], axis), [part.ndim for part in past[0]], axis
        )
        parts = zip(*past[:used], strict=True)
        sums = (weighted_sum(features, weights) for features, weights in zip(parts, pieces, strict=True))
        return Feature(sums, past[0].form)


def activation_bytes(pipe: Any, section: NetworkPlan, num_steps: int, job: Job, checkpointed: bool = False) -> int:
    """What autograd keeps of one sample's rollout; checkpointed, of what outlives a network call.

    Raises:
        NotDifferentiableError: the pipeline detaches, changes in place what autograd needs, or has an operation
            without a derivative. What else fails, memory among it, is raised as it is.
    """
    kept = 0

    def weigh(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    taps = torch.from_numpy(plan_taps(section)).float().to(device_of(pipe)).requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor)
    with TapRollout(pipe, section, checkpointed) as rollout, torch.enable_grad():
        rollout.follow(taps)
        try:
            with hooks:
                latents = sample_latents(pipe, [job], num_steps, 1, with_grad=True)
            torch.autograd.grad(latents.sum(), taps)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:
            raise NotDifferentiableError(str(error).splitlines()[0][:160]) from error
    return kept

"""A scheduler that sends a pipeline's own loop from evaluation to evaluation of several lanes."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers.chords import Chords, Stop
from hyca_runtime.samplers.drives import Drive, Driving, Evaluation
from hyca_runtime.samplers.single_step import SingleStep, single_step
from hyca_runtime.samplers.starts import Lanes
from hyca_runtime.stacked import same

Enter = Callable[[Evaluation, Any], AbstractContextManager[None]]
"""Says the step and the lane of an evaluation to who follows the calls; is given a scheduler that stands there."""

NOT_TAKEN = ("eta", "use_clipped_model_output", "per_token_timesteps")
"""Arguments of a scheduler's step that make it another sampler."""


class AsTheyCome(Tensor):
    """Timesteps of all evaluations; whoever iterates over them is given those that are really made."""

    times: Callable[[], Iterator[Tensor]]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001 - what is made of it is a plain tensor

    def __iter__(self) -> Iterator[Tensor]:
        return self.times()


class Conductor:
    """Makes a stand-in for a scheduler, a copy of it, whose timesteps are those of a drive's evaluations.

    The pipeline goes through them as it always does: it calls the network and gives the output to `step`, which answers
    with the latents of the next evaluation, and after the last with the sample.

    Args:
        lanes: those for a number of steps.
        begin: lets them begin, of the sampler and the initial noise.
        stop: when they rest.
        enter: see `Enter`.

    Attributes:
        scheduler: the stand-in.
        evaluations: how many this process has made.
        chords: the lanes, None before the first evaluation.
    """

    def __init__(
        self,
        scheduler: Any,
        drive: Drive,
        lanes: Callable[[int], Lanes],
        begin: Callable[[Lanes, SingleStep, Tensor], Chords],
        stop: Stop,
        enter: Enter,
    ) -> None:
        self._drive, self._lanes, self._begin, self._enter = drive, lanes, begin, enter
        self._most = stop.hits
        self._signature = inspect.signature(scheduler.step)
        self._driving: Driving | None = None
        self._now: Evaluation | None = None
        self.chords: Chords | None = None
        self._said = ExitStack()
        self.evaluations = 0
        self.scheduler = stand_in = copy.copy(scheduler)
        stand_in.set_timesteps = functools.wraps(scheduler.set_timesteps)(functools.partial(self._set_timesteps))
        stand_in.step = functools.wraps(scheduler.step)(functools.partial(self._step))

    def close(self) -> None:
        """Say no more of later calls."""
        self._said.close()

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        stand_in = self.scheduler
        type(stand_in).set_timesteps(stand_in, *args, **kwargs)
        self._sampler, self._times = single_step(stand_in), stand_in.timesteps
        self._place = copy.copy(stand_in)
        del self._place.set_timesteps, self._place.step
        self._of = self._lanes(self._sampler.num_steps)
        route = self._drive.route(self._of, self._of.passes(len(self._of) if self._most is None else self._most))
        listed = torch.stack([self._time(steps) for steps in route]).as_subclass(AsTheyCome)
        listed.times = self._times_as_they_come
        stand_in.timesteps = listed
        if isinstance(levels := getattr(stand_in, "sigmas", None), Tensor):
            stand_in.sigmas = torch.stack([*(levels[steps[0]] for steps in route), levels[-1]])
        self._driving, self.chords, self.evaluations = None, None, 0
        self._go_to(Evaluation(route[0], torch.empty(0), self._drive.opens))

    def _time(self, steps: tuple[int, ...]) -> Tensor:
        found: Tensor = self._times[steps[0]] if len(steps) == 1 else self._times[list(steps)]
        return found

    def _times_as_they_come(self) -> Iterator[Tensor]:
        while self._now is not None:
            before = self.evaluations
            yield self._time(self._now.steps)
            if self.evaluations == before:
                raise SamplerError("the pipeline went to its next timestep without a step of its scheduler")

    def _go_to(self, evaluation: Evaluation | None) -> None:
        """Say where the calls to come are."""
        self._said.close()
        self._now = evaluation
        if evaluation is not None:
            self._said.enter_context(self._enter(evaluation, _standing_at(self._place, evaluation.steps[0])))

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind(*args, **kwargs).arguments
        taken = [name for name in NOT_TAKEN if not _is_off(given.get(name))]
        if taken:
            raise SamplerError(f"lanes need a scheduler that steps without {taken[0]}, got {given[taken[0]]!r}")
        latents = self._answer(given["model_output"], given["timestep"], given["sample"])
        return SimpleNamespace(prev_sample=latents) if given.get("return_dict", True) else (latents,)

    def _answer(self, output: Tensor, time: Any, latents: Tensor) -> Tensor:
        if self.chords is None or self._driving is None:
            self.chords = self._begun(time, latents)
            self._driving = self._drive.drive(self.chords)
            next(self._driving)
        elif self._now is not None:
            _check_followed(latents, self._now.latents)
        if not self.chords.done:  # else the pipeline goes through a copy of the timesteps, more than were needed
            self.evaluations += 1
            following = self._sent(self._driving, output)
            self._go_to(following)
            if following is not None:
                return following.latents
        return torch.cat([self.chords.result] * self._drive.copies)

    def _begun(self, time: Any, latents: Tensor) -> Chords:
        first = self._now.steps if self._now is not None else ()
        if not first or not torch.equal(torch.as_tensor(time).cpu(), self._time(first).cpu()):
            raise SamplerError("lanes need a pipeline that begins at the first timestep of its scheduler")
        return self._begin(self._of, self._sampler, latents[: len(latents) // self._drive.copies])

    @staticmethod
    def _sent(driving: Driving, output: Tensor) -> Evaluation | None:
        try:
            return driving.send(output)
        except StopIteration:
            return None


def _check_followed(latents: Tensor, answered: Tensor) -> None:
    """Whether the pipeline goes on with what it was answered; waits for the device where it is another tensor."""
    if latents is not answered and not (
        latents.shape == answered.shape and same(latents, answered.to(latents.device, latents.dtype))
    ):
        raise SamplerError(
            "the pipeline, or its callback_on_step_end, changed the latents between two steps, which lanes do not "
            "follow: they go on from their own; leave that out, or sample without lanes"
        )


def _is_off(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and value == 0)


def _standing_at(scheduler: Any, step: int) -> Any:
    """A copy of a scheduler that says to be at a step, also where its class does not say so (DDIM)."""
    there = copy.copy(scheduler)
    vars(there)["_step_index"] = step
    if not hasattr(type(there), "step_index"):
        there.step_index = step
    return there

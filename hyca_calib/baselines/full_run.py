"""What a full run tells, which several methods must know: its times, the network's outputs, what its blocks add."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from hyca_calib.baselines.base import Setup
from hyca_calib.baselines.stepwise import OUTPUT, RESIDUAL, Call, driven
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint


class Facts(BaseModel, frozen=True):
    """What a full run of one sample looks like from outside.

    Attributes:
        times: what the network is told as the time, step by step, falling.
        batch: samples of a call: two where one call has both guidance branches.
        timesteps, sigmas: of the sampler; no sigmas where it has none.
    """

    times: tuple[float, ...]
    calls: int
    batch: int
    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def unit(self) -> float:
        """What the network's time is multiplied with to run from about 1000 down."""
        return 1000.0 if max(self.times) <= 1 else 1.0

    def bound(self, steps: int) -> float:
        """The timestep, from about 1000, below which all steps lie but so many first ones."""
        return self.times[min(steps, len(self.times)) - 1] * self.unit


def observe(pipe: Any, setup: Setup) -> Facts:
    """The facts, from a full run of the first of the setup's samples unless they are known."""
    found = setup.recall("calls of a full run", lambda: _observed(pipe, setup).model_dump(mode="json"))
    return Facts.model_validate(found)


def _observed(pipe: Any, setup: Setup) -> Facts:
    network = find_transformer(pipe)
    clock, heard, batches = Clock(network), list[float](), list[int]()

    def hear(_network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        heard.append(clock.timestep(args, kwargs).read()[0])
        batches.append(clock.batch(args, kwargs))

    with network.register_forward_pre_hook(hear, with_kwargs=True):
        sample_latents(pipe, setup.jobs[:1], setup.num_steps, 1)
    times = sorted(set(heard), reverse=True)
    return Facts(
        times=tuple(times),
        calls=round(len(heard) / len(times)),
        batch=max(batches),
        timesteps=tuple(map(float, pipe.scheduler.timesteps)),
        sigmas=tuple(map(float, getattr(pipe.scheduler, "sigmas", ()))),
    )


def _taken(
    pipe: Any, jobs: Sequence[Job], num_steps: int, point: CachePoint, take: Callable[[Feature], Tensor]
) -> list[list[Tensor]]:
    """What `take` makes of the feature on each step of a full run of `jobs` at once, by guidance branch."""
    found: dict[str, list[Tensor]] = defaultdict(list)

    def answer(call: Call) -> Any:
        output = call.compute()
        if call.feature is not None:
            found[call.stream.branch].append(take(call.feature))
        return output

    with driven(pipe, answer, point, depth=1):
        sample_latents(pipe, jobs, num_steps, len(jobs))
    return list(found.values())


def output_grams(pipe: Any, setup: Setup) -> NDArray[np.float64]:
    """Inner products between the network's outputs on all steps of full runs, unless they are known.

    Returns:
        ``(sample, step, step)``, summed over guidance branches.
    """

    def gram(job: Job) -> list[list[float]]:
        branches = _taken(pipe, [job], setup.num_steps, OUTPUT, lambda parts: torch.cat([p.flatten() for p in parts]))
        outputs = [torch.stack(branch).double() for branch in branches]
        return torch.stack([run @ run.T for run in outputs]).sum(dim=0).tolist()

    name = f"inner products of outputs, {len(setup.jobs)} samples"
    return np.asarray(setup.recall(name, lambda: [gram(job) for job in setup.jobs]))


def magnitude_ratios(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[float]:
    """The calibration that MagCache (arXiv 2506.09045) asks for.

    Norm of the block stack's residual over that of the step before, 1 for the first step: the mean over tokens, `jobs`
    and guidance branches.
    """
    norms = _taken(pipe, jobs, num_steps, RESIDUAL, lambda residual: residual[0].float().norm(dim=-1))
    ratios = [[(b / a.clamp(min=1e-8)).mean() for a, b in itertools.pairwise(of_branch)] for of_branch in norms]
    return [1.0, *(torch.stack(of_step).mean().item() for of_step in zip(*ratios, strict=True))]

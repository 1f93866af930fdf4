"""How far off quantised layers are on what they read while a plan reuses."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, Split
from hyca_calib.search.cachequant.drift import jobs_of
from hyca_calib.search.cachequant.moments import Moments, moments_of
from hyca_calib.search.kept_sums import Sums, summed
from hyca_calib.search.problem import Problem
from hyca_calib.search.tap_rollout import TapRollout
from hyca_runtime.attach.points import Place
from hyca_runtime.attach.proxies import Proxy
from hyca_runtime.certified import content_digest
from hyca_runtime.feature import Feature
from hyca_runtime.network_plan import NetworkPlan


class Compared(Proxy):
    """Answers as a quantised layer does; on a step that it is told adds up its output and that of the network's own.

    Args:
        layer: the network's own.
        steps: of the plan.
    """

    def __init__(self, inner: nn.Module, layer: nn.Linear, steps: int) -> None:
        super().__init__(inner)
        self._layer = [layer]  # no submodule: `inner` shares its bias
        self.step: int | None = None
        self.sums = np.zeros((6, steps, layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        if self.step is not None:
            self.sums[:, self.step] += moments_of([made], [self._layer[0](x)], -1)
            self.step = None
        return made


def output_errors(
    pipe: Any,
    problem: Problem,
    section: NetworkPlan,
    readers: Iterable[Place],
    split: Split,
    folder: Path,
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Moments]:
    """What quantised layers put out against what the network's own do, on the same inputs, by path; only on steps that
    reuse, in runs under the plan itself.

    Args:
        section: whose steps are computed by one variant.
        readers: the layers.
        split: of which runs are taken.
        folder: where sums are kept; a second call goes on from them.
    """
    jobs, places = jobs_of(problem, split), tuple(readers)
    if not places:
        return {}
    of = f"{problem.identity}, {len(jobs)} of {split}, {content_digest(section, [section])}"
    file = folder / f"outputs-{split}.safetensors"
    found = summed(file, of, jobs, lambda job: _measured(pipe, section, places, job, problem), on_progress)
    return {path: Moments(sums) for path, sums in found.items()}


def _measured(pipe: Any, section: NetworkPlan, readers: Sequence[Place], job: Job, problem: Problem) -> Sums:
    compared, paths = dict[str, Compared](), {id(place.module): place.path for place in readers}

    def around(made: nn.Module, layer: nn.Linear) -> nn.Module:
        path = paths.get(id(layer))
        if path is None:
            return made
        compared[path] = Compared(made, layer, section.schedule.num_steps)
        return compared[path]

    def reuses(_: str, step: int, __: Sequence[Feature]) -> None:
        for layer in compared.values():
            layer.step = step

    with TapRollout(pipe, section, checkpointed=False, on_history=reuses, around=around), torch.no_grad():
        sample_latents(pipe, [job], problem.workload.num_steps, 1)
    return {path: layer.sums for path, layer in compared.items()}

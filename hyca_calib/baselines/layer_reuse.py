"""Layers that run on some steps only and repeat their result on the others: FORA and SmoothCache.

Both reuse what attention and feed-forward layers add to the residual stream; norms and gates stay live. FORA (arXiv
2407.01425) computes every N-th step. SmoothCache (arXiv 2411.10510) makes a schedule for each kind of layer from how
fast its results change during a full run.

This is not what ``hyca search --preset smoothcache`` makes: a kind is the name of a layer, so that FLUX has four, its
single blocks' MLPs among them, where the preset has two; and all calibration samples are drawn in one batch, where
the preset draws each alone.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.baselines.base import INTERVALS, Applied, Axis, Family, HalfOpenAxis, Settings, Setup, ladder
from hyca_calib.pipelines.outputs import tensors_of
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.forwards import Patch, Replacement
from hyca_runtime.attach.points import Place, find_blocks, find_transformer

LAYER = re.compile(r"attn\d*|ff\w*|mlp|proj_mlp")
"""Names of the layers in a block of diffusers; a kind is a name."""
FUSED, INPUTS = "proj_out", {"attn", "proj_mlp"}
"""The last layer of a single-stream block, and the layers whose results it projects: it repeats where both do."""
FAR = 1e9
"""More than any layer changes."""
LOOKAHEADS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)
"""Most steps in a row that repeat; the paper takes 3."""

Runs = Sequence[bool]
"""Step by step, whether a layer runs."""

Answer = Callable[[Place, int, int, Callable[[], Any]], Any]
"""Answers for a layer, given the step, the number of the network's call within the step, and the layer's own work."""


def fora_family(num_steps: int) -> Family:
    """FORA: every N-th step computes."""

    def apply(pipe: Any, settings: Settings) -> Applied:
        runs = [step % int(settings["N"]) == 0 for step in range(num_steps)]
        return reused(pipe, lambda kind: runs)

    axis = HalfOpenAxis("N", INTERVALS, (2, 3, 4, 6, 9, 14, 24))
    return Family("FORA", "arXiv 2407.01425, from the paper", (axis,), apply, num_steps)


def smooth_family(setup: Setup) -> Family:
    """SmoothCache, which looks at a full run of the setup's samples when it is first used."""
    steps, most = setup.num_steps, max(LOOKAHEADS)

    def apply(pipe: Any, settings: Settings) -> Applied:
        def learn() -> dict[str, list[list[float]]]:  # JSON has no infinity
            changes = layer_changes(pipe, setup.jobs, steps, most)
            return {kind: rows.clamp(max=FAR).tolist() for kind, rows in changes.items()}

        told = setup.recall(f"changes of layers over up to {most} steps", learn)
        changes = {kind: torch.tensor(rows, dtype=torch.float64) for kind, rows in told.items()}
        lookahead, threshold = int(settings["J"]), float(settings["threshold"])
        return reused(pipe, lambda kind: smooth_schedule(changes[kind][:, :lookahead], threshold))

    axes = (
        Axis("threshold", ladder(0.01, 4, 1.25), (0.05, 0.15, 0.4, 1.0, 4.0)),
        HalfOpenAxis("J", LOOKAHEADS, (3, 16)),
    )
    return Family(
        "SmoothCache", "arXiv 2411.10510, from the paper; a schedule for each name of a layer", axes, apply, steps
    )


def reused(pipe: Any, runs_of: Callable[[str], Runs]) -> Applied:
    """Layers run on the steps that ``runs_of(kind)`` says, and repeat their last result on the others."""
    kept: dict[tuple[str, int], Any] = {}

    def answer(place: Place, step: int, call: int, run: Callable[[], Any]) -> Any:
        if runs[place.name][step]:
            kept[place.path, call] = run()
        return kept[place.path, call]

    layers, fused = _layers(pipe), _fused(pipe)
    runs = {name: runs_of(name) for name in {place.name for place in layers}}
    if fused:
        runs[FUSED] = [any(each) for each in zip(*(runs[name] for name in INPUTS), strict=True)]
    return _answered(pipe, [*layers, *fused], answer)


def layer_changes(pipe: Any, jobs: Sequence[Job], num_steps: int, lookahead: int) -> Mapping[str, Tensor]:
    """How much results change: ``sum |L_t - L_(t+j)| / sum |L_t|`` by kind, ``(step t, j - 1)``.

    The mean over layers of the kind and guidance calls; infinite beyond the last step.
    """
    found: dict[str, Tensor] = defaultdict(lambda: torch.zeros(num_steps, lookahead, dtype=torch.float64))
    past: dict[tuple[str, int], deque[list[Tensor]]] = defaultdict(lambda: deque(maxlen=lookahead))

    def answer(place: Place, step: int, call: int, run: Callable[[], Any]) -> Any:
        output = run()
        parts = [part.float() for part in tensors_of(output)]
        for j, older in enumerate(past[place.path, call], 1):
            moved = sum((a - b).abs().sum() for a, b in zip(older, parts, strict=True))
            found[place.name][step - j, j - 1] += float(moved / sum(part.abs().sum() for part in older))
        past[place.path, call].appendleft(parts)
        return output

    with _answered(pipe, _layers(pipe), answer):
        sample_latents(pipe, jobs, num_steps, len(jobs))
    layers = Counter(path.rpartition(".")[2] for path, _ in past)
    beyond = torch.arange(num_steps)[:, None] + torch.arange(lookahead) + 1 >= num_steps
    return {name: (sums / layers[name]).masked_fill(beyond, torch.inf) for name, sums in found.items()}


def smooth_schedule(changes: Tensor, threshold: float) -> Runs:
    """From a step that runs, skip as many as the change to the last of them allows; first and last step run.

    Args:
        changes: ``(step, j - 1)`` as of `layer_changes`.
    """
    runs, step = [True] * len(changes), 0
    while step < len(changes):
        near = (changes[step] <= threshold).nonzero().flatten().tolist()
        skipped = near[-1] + 1 if near else 0
        runs[step + 1 : step + 1 + skipped] = [False] * skipped
        step += skipped + 1
    runs[-1] = True
    return runs


@contextmanager
def _answered(pipe: Any, layers: Sequence[Place], answer: Answer) -> Iterator[None]:
    """All calls of the layers go to `answer`; steps are told apart by their timesteps, which fall during a run."""
    network = find_transformer(pipe)
    clock, time, step, call = Clock(network), -1.0, 0, 0

    def hear(_network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal time, step, call
        now, _ = clock.timestep(args, kwargs).read()
        step, call = (0, 0) if now > time else (step, call + 1) if now == time else (step + 1, 0)
        time = now

    def replaced(place: Place) -> Patch:
        module, own = place.module, place.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            return answer(place, step, call, lambda: own(*args, **kwargs))

        return Patch(module, "forward", Replacement(module, "forward", forward))

    with network.register_forward_pre_hook(hear, with_kwargs=True), ExitStack() as stack:
        for place in layers:
            stack.callback(replaced(place).remove)
        yield


def _layers(pipe: Any) -> list[Place]:
    return [place for places in _children(pipe) for place in places if LAYER.fullmatch(place.name)]


def _fused(pipe: Any) -> list[Place]:
    return [
        place
        for places in _children(pipe)
        for place in places
        if place.name == FUSED and {each.name for each in places} >= INPUTS
    ]


def _children(pipe: Any) -> list[list[Place]]:
    """The layers of every block."""
    return [
        [Place(block.module, name, f"{block.path}.{name}") for name, _ in block.module.named_children()]
        for block in find_blocks(find_transformer(pipe))
    ]

"""What a model takes, from short runs of it: a step in full, forecast, recorded, and with its gradient."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.costs.flops import TIMED_TAPS, CostModel, TimedOn, measure_seconds, seconds_of
from hyca_calib.costs.memory import peak_memory, trim
from hyca_calib.costs.run_seconds import RunSeconds
from hyca_calib.pipelines.frozen import frozen
from hyca_calib.pipelines.outputs import tensors_of
from hyca_calib.pipelines.recompute import levels_of, recomputing
from hyca_calib.pipelines.rollout import sample_images, sample_latents
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.preflight import Preflight, available_bytes
from hyca_calib.trace.recording import PointRecording, Recording
from hyca_calib.trace.reduce import gram_of
from hyca_calib.trace.request import Request
from hyca_calib.trace.run import probed, recorder_of
from hyca_calib.trace.step_costs import Call

REPEATS = 2
GRAPHS = 4
"""Kept at once, to see what the process grows by for each."""


@dataclass(frozen=True)
class TimedModel:
    """Seconds and bytes of one sample, of which as many are drawn at once as a trace does.

    Attributes:
        cost: of a step, all network calls and guidance branches together, and all chunks.
        calls: of the network on a step.
        chunks: of a sample, each of which goes through all steps; 1 of all that is no such video.
        alone_seconds: of a full step of a sample that is drawn alone.
        recorded_seconds: what recording adds to a step where the gain of the network's tail is measured.
        gram_seconds: of the statistics of a whole run.
        begin_seconds: of what a run does beside its steps, such as encoding the prompt.
        decode_seconds: from final latents to the finished sample.
        backward_seconds: of a full step with its gradient; None if none gets through the network, or fits.
        activation_bytes: what autograd keeps of a full step.
        in_blocks: whether the gradient fits only where blocks are computed again, see `Recomputed`.
        peak_bytes: of a full step, beyond what is held; None if nobody can tell.
        held_bytes: of the network's weights.
        latent_bytes: of final latents, as they are kept.
        free_bytes: on the device of the features.
        channels: of the first cache point.
        points: how many are recorded that are searched one by one.
        preflight: what the trace needs.
    """

    cost: CostModel
    calls: int
    chunks: int
    alone_seconds: float
    recorded_seconds: float
    gram_seconds: float
    begin_seconds: float
    decode_seconds: float
    backward_seconds: float | None
    activation_bytes: int
    in_blocks: bool
    peak_bytes: int | None
    held_bytes: int
    latent_bytes: int
    free_bytes: int
    channels: int
    points: int
    preflight: Preflight

    def run_seconds(self, steps: int) -> RunSeconds:
        """Roughly how long runs of so many steps take, by the share of the network that is computed."""
        cost, beside = self.cost, self.begin_seconds + self.decode_seconds
        full = beside + steps * cost.full_seconds
        least = cost.predicted_flops(TIMED_TAPS) / cost.full_flops, beside + steps * cost.predicted_seconds
        return RunSeconds.through(full, (least, (1.0, full)), cost.timed_on or TimedOn("this machine", "", 1))


def timed_model(pipe: Any, request: Request, folder: Folder) -> TimedModel:
    """Time the model of a trace on its first batch, in runs of two steps, or of as few as call the network.

    Args:
        folder: of the trace, of which nothing is written.
    """
    jobs, seed = request.batches[0], request.workload.seed
    batch = len(jobs)
    with recorder_of(pipe, request) as recorder:
        probe, asked = probed(recorder, request.workload, jobs)
        chunks = probe.chunks.clip if probe.chunks else 1
        steps, calls = len(probe.timesteps), len(probe.branches) // probe.stacked * chunks
        recorded = _least_seconds(lambda: recorder.record(jobs, asked, seed)) / batch
        cost = next(iter(recorder.measure_cost(jobs, calls).values()))
        module, call = recorder.module, recorder.latest_call
    plain = _least_seconds(lambda: sample_latents(pipe, jobs, asked, batch)) / batch
    alone = _least_seconds(lambda: sample_latents(pipe, jobs[:1], asked, 1))
    finished = _least_seconds(lambda: sample_images(pipe, jobs[:1], asked, 1))
    if chunks > 1:  # the call that was measured is of one chunk, and attends to none before it
        cost = replace(cost, full_seconds=plain / steps, feature_numel=chunks * cost.feature_numel)
    begin = max(0.0, plain - steps * cost.full_seconds)
    with peak_memory(probe.device) as peak, torch.no_grad():
        module(*call[0], **call[1])
    backward, kept, in_blocks = _with_room(module, call)
    trim()  # what the process holds is announced with what follows
    return TimedModel(
        cost=cost,
        calls=calls,
        chunks=chunks,
        alone_seconds=max(0.0, alone - begin) / steps,
        recorded_seconds=max(0.0, recorded - plain) / steps,
        gram_seconds=_gram_seconds(probe, request) / batch,
        begin_seconds=begin,
        decode_seconds=max(0.0, finished - alone),
        backward_seconds=None if backward is None else backward * calls / batch,
        activation_bytes=kept * calls // batch,
        in_blocks=in_blocks,
        peak_bytes=None if peak.bytes is None else peak.bytes // batch,
        held_bytes=sum(parameter.nbytes for parameter in module.parameters()),
        latent_bytes=4 * probe.latents[0].numel(),
        free_bytes=available_bytes(probe.device),
        points=1 if request.across else len(probe.points),
        channels=next(iter(probe.points.values())).channels,
        preflight=Preflight.of(probe, request, len(request.batches), folder),
    )


def _least_seconds(run: Callable[[], Any]) -> float:
    """Of a few runs the fastest: others slow a machine down, nobody makes it faster."""
    return min(seconds_of(run) for _ in range(REPEATS))


def _with_room(module: nn.Module, call: Call) -> tuple[float | None, int, bool]:
    """As `_with_gradient`, of the first way that fits memory, and whether that computes blocks again."""
    for level in levels_of(module):
        if level == "calls":  # of one call that makes no difference
            continue
        try:
            with recomputing(module, level):
                return *_with_gradient(module, call), level == "blocks"
        except torch.OutOfMemoryError:
            continue
    return None, 0, False


def _with_gradient(module: nn.Module, call: Call) -> tuple[float | None, int]:
    """Seconds of a call with the gradient of what goes in, None where there is none; and the bytes autograd keeps.

    Raises:
        OutOfMemoryError: the network's activations do not fit.
    """
    own, kept = {parameter.data_ptr() for parameter in module.parameters()}, 0

    def weigh(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if tensor.data_ptr() in own else tensor.nbytes
        return tensor

    def both() -> None:
        args, kwargs, entered = _differentiable(call)
        with torch.enable_grad():
            total = torch.stack([part.float().sum() for part in tensors_of(module(*args, **kwargs))]).sum()
            torch.autograd.grad(total, entered)

    with frozen(module):
        try:
            with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
                both()
            return measure_seconds(both, REPEATS), max(kept, _grown_by(module, call, kept))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError):  # detached, changed in place, or an operation without a derivative
            return None, 0


def _grown_by(module: nn.Module, call: Call, kept: int) -> int:
    """What the process grows by for the graph of a call, on a CPU: an allocator adds its share to what tensors take.

    Args:
        kept: what autograd keeps of it; 0 is returned where several graphs might not fit, and on other devices.
    """
    device = next(module.parameters()).device
    if device.type != "cpu" or GRAPHS * kept > available_bytes(device) / 4:
        return 0
    with peak_memory(device) as peak, torch.enable_grad():
        graphs = [module(*args, **kwargs) for args, kwargs, _ in (_differentiable(call) for _ in range(GRAPHS))]
    del graphs
    return (peak.bytes or 0) // GRAPHS


def _differentiable(call: Call) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]:
    """The arguments of a call with new leaves for what may have a gradient, and those leaves."""
    entered = list[Tensor]()

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 3:
            return value
        entered.append(value.detach().clone().requires_grad_())
        return entered[-1]

    args, kwargs = call
    return tuple(map(leaf, args)), {name: leaf(value) for name, value in kwargs.items()}, entered[:1]


def _gram_seconds(probe: Recording, request: Request) -> float:
    """Seconds of a batch's statistics over a whole run, from features of the short one over and over."""
    whole = request.workload.num_steps

    def long(of: PointRecording) -> PointRecording:
        return replace(of, features=[(steps * whole)[:whole] for steps in of.features])

    samples = torch.arange(len(request.batches[0]), device=probe.device)
    found = [long(of) for of in probe.points.values()] + ([long(probe.across())] if request.across else [])
    return sum(seconds_of(partial(gram_of, of, samples)) for of in found)

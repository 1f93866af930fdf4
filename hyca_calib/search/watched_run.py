"""A full run of the traced network, of which every call is told with its features at some points."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.short_runs import shortest
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.problem import Problem
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_point import Captured
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.late import Probe
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import CallResolver
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.variant import VariantSpec, Weights

Points = Mapping[str, CachePoint]


@dataclass(frozen=True)
class WatchedCall:
    """One call of a network in a full run.

    Attributes:
        begins: whether it begins a pass over the steps.
        stream: its guidance branch and the part of the picture.
        features: of the points that it came to, by name.
        output: what the network returned.
        probe: what its leading blocks made, where that was asked for.
        others: the features that variants of the network make of the same call, by the name of the variant.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    begins: bool
    stream: tuple[str, int]
    step: int
    features: dict[str, Feature]
    output: Any
    probe: Probe | None = None
    others: Mapping[str, Captured] = field(default_factory=dict)


def watch(
    pipe: Any,
    problem: Problem,
    points: Points,
    job: Job,
    num_steps: int,
    hear: Callable[[WatchedCall], None],
    blocks: int = 0,
    variants: Mapping[str, VariantSpec] | None = None,
) -> Attachment:
    """Sample a job in full and tell every call of the traced network that comes to a point.

    Args:
        blocks: how many leading blocks are the probe that is told, too; 0 for none. With one there is a single point,
            as `Attachment.run_late` wants it.
        variants: of the network, each of which is run on every call, too.

    Returns:
        What the calls went through, removed from the network.
    """
    module = find_transformer(pipe, problem.trace.attributes.model.component)
    attachment, clock = Attachment(module, points, variants=variants), Clock(module, pipe)
    resolver = CallResolver(clock)

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        probes, captured = list[Probe](), dict[str, Feature | None]()
        if blocks:
            output = attachment.run_late(args, kwargs, blocks, probes.append, captured.update)
        else:
            output, captured = attachment.run(args, kwargs, points, {})
        features = {name: feature for name, feature in captured.items() if feature is not None}
        if features:
            call = resolver.resolve(args, kwargs, attachment.context.said.branch)
            at, begins = int(resolver.track.position), call.progress == "begins"
            probe = probes[0] if probes else None
            weights = map(Weights, variants or {})
            others = {each.variant: attachment.run(args, kwargs, points, {}, weights=each)[1] for each in weights}
            hear(WatchedCall(args, kwargs, begins, (call.branch, call.part), at, features, output, probe, others))
        return output

    attachment.install(outside_inference_mode(answer))
    try:
        sample_latents(pipe, [job], num_steps, 1)
    finally:
        attachment.remove()
    return attachment


def last_call(
    pipe: Any, problem: Problem, points: Points, blocks: int = 0, variants: Mapping[str, VariantSpec] | None = None
) -> tuple[Attachment, WatchedCall | None]:
    """The last call that comes to a point in a run of the first fit job, as short as there is any; None if none does.

    Args:
        blocks, variants: as of `watch`.
    """
    calls, job = list[WatchedCall](), problem.workload.of("fit")[0]
    through: list[Attachment] = []

    def hear(call: WatchedCall) -> None:
        calls[:] = [call]

    def called(steps: int) -> WatchedCall | None:
        through[:] = [watch(pipe, problem, points, job, steps, hear, blocks, variants)]
        return calls[0] if calls else None

    found = shortest(problem.workload.num_steps, called)
    return through[0], found

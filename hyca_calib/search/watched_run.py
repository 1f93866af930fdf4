"""A full run of the traced network, of which every call is told with its features at some points."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import sample_latents
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

PROBE_STEPS = 2
"""Of a run that only tells what a call looks like."""

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
            call = resolver.resolve(args, kwargs, attachment.context.branch)
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

"""What is kept of the past as a part of the search: each retention is run once, for what attention to it costs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.search.packcache import keeping
from hyca_calib.search.past_cost import PastCost, told_keys
from hyca_calib.search.problem import Problem
from hyca_calib.trace.streamed import is_asked
from hyca_runtime.errors import BudgetError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.streaming.retention import All, RetentionSpec, retention_from_spec
from hyca_runtime.streaming.segment import Segment

PAST = "past"
"""What a plan calls that in its provenance."""


class PastMeter:
    """Counts the FLOPs of attention to the past; an `Observer` of key stores.

    Attributes:
        flops, calls: by chunk, of all its attentions, and how many these are.
        layers: that attend.
        chunks: the most chunks of tokens that one attended to beside itself.
    """

    def __init__(self) -> None:
        self.flops, self.calls = defaultdict[int, float](float), defaultdict[int, int](int)
        self.layers, self.chunks = set[int](), 0.0

    def __call__(self, layer: int, chunk: int, queries: Tensor, seen: Segment) -> None:
        own = queries.shape[2]
        self.flops[chunk] += 4.0 * queries.numel() * (seen.tokens - own)
        self.calls[chunk] += 1
        self.layers.add(layer)
        self.chunks = max(self.chunks, (seen.tokens - own) / own)

    def by_chunk(self, calls: int) -> list[float]:
        """The mean FLOPs of each chunk on a step of so many calls of the network."""
        return [self.flops[chunk] / self.calls[chunk] * len(self.layers) * calls for chunk in sorted(self.calls)]


def with_keys(
    pipe: Any, problems: Sequence[Problem], keys: Sequence[RetentionSpec], most_chunks: float | None
) -> list[tuple[Problem, ...]]:
    """The problems once for every retention, with what attention to the past costs.

    Cost: a full run of one sample for each.

    Args:
        problems: of one clip: of all its chunks, at one point or several, or of the first and of the later ones.
        keys: what may be kept of finished chunks.
        most_chunks: of tokens that a chunk may attend to beside itself.

    Raises:
        BudgetError: each of them keeps more.
    """
    every = All().spec()
    meters = {told_keys(spec): _metered(pipe, problems[0], spec) for spec in (every, *keys)}
    trace = problems[0].trace
    calls = len(trace.branches) // trace.stacked
    everything, found = _mean(meters[told_keys(every)].by_chunk(calls)), list[tuple[Problem, ...]]()
    for spec in keys:
        meter = meters[told_keys(spec)]
        if most_chunks is None or meter.chunks <= most_chunks:
            seen = [_of(problem, meter.by_chunk(calls)) for problem in problems]
            costs = [PastCost(_mean(each), everything, meter.chunks) for each in seen]
            found.append(tuple(replace(p, keys=spec, past=cost) for p, cost in zip(problems, costs, strict=True)))
    if not found:
        told = ", ".join(f"'{told}' {meters[told].chunks:.3g}" for told in map(told_keys, keys))
        raise BudgetError(
            f"--most-keys {most_chunks:g}: expected keys of no more chunks of the past, got {told}; "
            "allow more, or give --keys with which less is kept"
        )
    return found


def told_past(problems: Sequence[Problem], sections: Sequence[NetworkPlan]) -> dict[str, Any]:
    """What a plan says of a search over what is kept, of a clip as traced; nothing of another search.

    Args:
        problems, sections: of all chunks, or of the first and of the later ones.
    """
    spent = whole = 0.0
    for problem, section in zip(problems, sections, strict=True):
        if problem.past is None or problem.trace.attributes.chunks is None:
            return {}
        cost, count = problem.trace.cost, problem.trace.attributes.chunks.count
        spent += count * problem.past.spent(section, cost)
        whole += count * problem.past.whole(cost, problem.trace.num_steps)
    most = max(problem.past.chunks for problem in problems if problem.past is not None)
    return {PAST: {"flops_ratio": round(whole / spent, 4), "most_chunks": round(most, 4)}}


def _metered(pipe: Any, problem: Problem, spec: RetentionSpec) -> PastMeter:
    meter, plan = PastMeter(), Plan(name="full", sections=(keeping(problem, retention_from_spec(spec)),))
    with followed(pipe, plan) as session:
        session.observe(meter)
        sample_latents(pipe, problem.workload.of("fit")[:1], problem.workload.num_steps, 1)
    return meter


def _of(problem: Problem, by_chunk: Sequence[float]) -> Sequence[float]:
    """Those of the chunks that were traced."""
    chunks = problem.trace.attributes.chunks
    return [each for chunk, each in enumerate(by_chunk) if chunks is not None and is_asked(chunk, chunks.which)]


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)

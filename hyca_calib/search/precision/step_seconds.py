"""How long steps by quantised weights take here, beside steps by the network's own."""

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from hyca_calib.costs.flops import seconds_of
from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.short_runs import shortest
from hyca_calib.search.problem import Problem
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.schedule import DEFAULT, FEATURE
from hyca_runtime.variant import OWN, VariantSpec, Weights

ROUNDS = 5
"""Of a call by each of the weights, in turn, after one that warms up."""


def step_shares(pipe: Any, problem: Problem, specs: Mapping[str, VariantSpec]) -> dict[str, float]:
    """Seconds of a call by each variant over those of one by the network's own weights, in calls as large as the
    trace's; of simulated ones nothing, which have no kernel here.

    Raises:
        AttachError: a variant cannot be made here.
    """
    trace, calls = problem.trace, list[tuple[tuple[Any, ...], dict[str, Any]]]()
    jobs = problem.workload.of("fit")[: trace.attributes.batch]
    network = find_transformer(pipe, trace.attributes.model.component)
    real = {name: spec for name, spec in specs.items() if not spec.simulated}
    attachment = Attachment(network, {FEATURE: trace.point}, variants=real)

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls.append((args, kwargs))
        return attachment.run(args, kwargs, (), {})[0]

    def called(steps: int) -> int:
        sample_latents(pipe, jobs, steps, len(jobs))
        return len(calls)

    attachment.install(outside_inference_mode(answer))
    try:
        shortest(problem.workload.num_steps, lambda steps: called(steps) or None)
        args, kwargs = calls[-1]
        ways = {DEFAULT: OWN} | {name: Weights(name) for name in real}

        def took(weights: Weights) -> float:
            return seconds_of(lambda: attachment.run(args, kwargs, (), {}, weights=weights))

        with torch.no_grad():
            rounds = [{name: took(weights) for name, weights in ways.items()} for _ in range(ROUNDS + 1)][1:]
    finally:
        attachment.remove()
    found = {name: statistics.median(each[name] for each in rounds) for name in ways}
    return {name: found[name] / found[DEFAULT] for name in real}

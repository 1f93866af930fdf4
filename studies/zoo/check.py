"""What the runtime does on each model of the zoo, seen by running it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.classes import quiet
from hyca_calib.pipelines.outputs import tensors_of
from hyca_runtime import HycaError, Plan, apply_plan
from hyca_runtime.attach.points import find_block_lists, find_transformers
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.schedule import Schedule
from studies.zoo.base import Kwargs, TinyModel, TinyPipeline

STEPS, COMPUTED = 6, (0, 1, 3)
CHECKS = ("attach", "identical", "no block runs", "restored", "compiled")


@dataclass
class Verdict:
    """Outcome of the checks at one point: "yes", "no", or why not.

    Attributes:
        name: of the model class or the pipeline.
        point: where it was cached.
        results: by check.
    """

    name: str
    point: str
    results: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return set(self.results.values()) <= {"yes", "not run"}


def check_model(tiny: TinyModel, point: str, compiled: bool) -> Verdict:
    """Drive one network, without a pipeline, over a few steps."""
    verdict = Verdict(tiny.name, point)

    def sample(module: nn.Module) -> Callable[[], list[Tensor]]:
        return lambda: [t for call in run_of(tiny) for t in tensors_of(module(**call))]

    with torch.no_grad(), quiet():
        try:
            module = tiny.build()
        except KeyError as error:  # an older diffusers
            verdict.results["attach"] = str(error.args[0])
            return verdict
        _check(verdict, module, parse_point(point), sample(module), "not run")
        if compiled and verdict.good:
            torch.compiler.reset()
            network = torch.compile(module, backend="eager")
            verdict.results["compiled"] = _says(lambda: _compiled_agrees(module, parse_point(point), sample, network))
    return verdict


def run_of(tiny: TinyModel, batch: int = 1, seed: int = 0) -> list[Kwargs]:
    """The calls of one run; what does not change with time is one object, as in a pipeline."""
    calls = [tiny.call(batch, 1 - step / STEPS, seed) for step in range(STEPS)]
    return [calls[0], *({name: _steady(calls[0][name], value) for name, value in call.items()} for call in calls[1:])]


def _steady(first: Any, value: Any) -> Any:
    """`value`, with `first` itself in the place of every tensor that equals its counterpart there."""
    if isinstance(value, Tensor) and isinstance(first, Tensor) and torch.equal(first, value):
        return first
    if isinstance(value, list | tuple) and isinstance(first, type(value)) and len(first) == len(value):
        return type(value)(_steady(a, b) for a, b in zip(first, value, strict=True))
    return value


def check_pipeline(tiny: TinyPipeline, point: str) -> Verdict:
    """Drive one pipeline, guidance and all."""
    verdict = Verdict(tiny.name, point)
    with quiet():
        pipe = tiny.build()
        _check(verdict, pipe, parse_point(point), lambda: tensors_of(tiny.call(pipe, STEPS)), "not run")
    return verdict


def _check(verdict: Verdict, target: Any, point: CachePoint, sample: Callable[[], list[Tensor]], last: str) -> None:
    results = verdict.results
    results.update(dict.fromkeys(CHECKS, last))
    with counted_blocks(target) as calls:
        full = sample()
    try:
        plan = hand_plan(target, point, sample, lambda steps: [s for s in COMPUTED if s < steps])
        session = apply_plan(target, computing_all(plan), on_mismatch="error")
    except (HycaError, RuntimeError, ValueError) as error:
        results["attach"] = _reason(error)
        return
    results["attach"] = "yes"
    with session:
        results["identical"] = _says(lambda: _equal(sample(), full))
    results["no block runs"] = _says(lambda: _blocks_stay_idle(target, plan, point, sample, full, calls))
    results["restored"] = _says(
        lambda: (
            _equal(sample(), full)
            and all("forward" not in vars(m) for net in find_transformers(target).values() for m in net.modules())
        )
    )


def computing_all(plan: Plan) -> Plan:
    """The plan with every step computed."""

    def every(section: NetworkPlan) -> NetworkPlan:
        steps = section.schedule.num_steps
        return NetworkPlan.model_validate(section.model_dump() | {"schedule": Schedule.from_steps(steps, range(steps))})

    return plan.model_copy(update={"sections": tuple(map(every, plan.sections))})


def _blocks_stay_idle(
    target: Any,
    plan: Plan,
    point: CachePoint,
    sample: Callable[[], list[Tensor]],
    full: list[Tensor],
    each: list[tuple[str, int]],
) -> bool:
    """Whether predicted steps run no block, change the result, and keep it finite.

    Args:
        full, each: what the full run gave, and how often it called each block.
    """
    with counted_blocks(target) as calls, apply_plan(target, plan, on_mismatch="error") as session:
        result = sample()
        report = session.report()
    schedules = {section.component: section.schedule for section in plan.sections}
    steps = sum(schedule.num_steps for schedule in schedules.values())
    expected = sum(len(schedule.computed_steps) for schedule in schedules.values())
    if (report.computed, report.steps) != (expected, steps):
        raise RuntimeError(f"{report.computed} of {report.steps} steps computed, expected {expected} of {steps}")
    shares = {name: len(s.computed_steps) / s.num_steps for name, s in schedules.items()}
    idle = point.kind == "modules" or all(
        now <= full_calls * shares[name] for (name, full_calls), (_, now) in zip(each, calls, strict=True)
    )
    changed = any(not torch.equal(a, b) for a, b in zip(result, full, strict=True))
    return idle and changed and all(tensor.isfinite().all() for tensor in result)


def _compiled_agrees(
    module: nn.Module,
    point: CachePoint,
    sample: Callable[[nn.Module], Callable[[], list[Tensor]]],
    network: Any,
) -> bool:
    plan = hand_plan(module, point, sample(module), lambda steps: [s for s in COMPUTED if s < steps])
    with apply_plan(module, plan, on_mismatch="error"):
        eager = sample(module)()
        found = sample(network)()
        again = sample(network)()
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(eager + eager, found + again, strict=True))


@contextmanager
def counted_blocks(target: Any) -> Iterator[list[tuple[str, int]]]:
    """How often each block of every network is called, with the network's name."""
    blocks = [
        (name, block)
        for name, module in find_transformers(target).items()
        for place in find_block_lists(module)
        for block in place.module.children()
    ]
    calls = [(name, 0) for name, _ in blocks]

    def count(at: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[at] = (calls[at][0], calls[at][1] + 1)

        return hook

    hooks = [block.register_forward_pre_hook(count(i)) for i, (_, block) in enumerate(blocks)]
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()


def _equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _says(check: Callable[[], bool]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "yes" if check() else "no"
    except Exception as error:  # whatever a model of the zoo raises belongs into the table
        return _reason(error)


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:140] if lines else ''}"

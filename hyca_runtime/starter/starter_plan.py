"""A plan for a first look at a pipeline that nothing was measured on."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from hyca_runtime.attach.points import find_transformers
from hyca_runtime.errors import AttachError, BudgetError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plain_section import plain_section
from hyca_runtime.plan import Plan
from hyca_runtime.schedule import FEATURE, Schedule
from hyca_runtime.solvers import ClosedFormSolver
from hyca_runtime.starter.first_look import FirstLook
from hyca_runtime.starter.rule import SOLVER, learnt_steps

UNCALIBRATED = "uncalibrated"
"""What the provenance of such a plan says of it."""

Steps = Callable[[int, int], tuple[int, ...]]
"""From the number of steps, and of those that may be computed, to these."""


def starter_plan(
    pipe: Any,
    steps: int = 28,
    budget: str = "3x",
    *,
    rule: Steps = learnt_steps,
    solver: ClosedFormSolver = SOLVER,
    **call: Any,
) -> Plan:
    """A plan without calibration: one closed form, on steps where searched plans of other models compute.

    The pipeline is called once, and every network of it runs in full on one step of that; what comes out is thrown
    away. Nothing is known of how well the plan does on this model: `hyca evaluate` measures it, `hyca calibrate` makes
    one for it.

    Args:
        pipe: a diffusers pipeline.
        steps: of the sampler.
        budget: a speed-up such as ``3x``, in FLOPs of each network, predicted steps included.
        rule, solver: another schedule or closed form than the learnt ones.
        call: further arguments of the pipeline's call, such as a size: the plan is for runs like it. A prompt and
            ``output_type="latent"`` are filled in where the call takes them.

    Returns:
        A plan whose provenance says that it is uncalibrated.

    Raises:
        AttachError: no such pipeline, or its networks have no cache point.
        BudgetError: no speed-up, or one that cannot be met; no number of steps.
    """
    ratio = _speed_up(budget)
    if not isinstance(steps, int) or steps < 1:
        raise BudgetError(f"steps: expected how many the sampler makes, such as 28, got {steps!r}")
    if isinstance(pipe, nn.Module):
        raise AttachError(f"expected a pipeline, whose sampler tells the steps, got a {type(pipe).__name__}")
    looks = _looked_at(pipe, steps, call)
    sections = [_section(name, look, ratio, rule, solver) for name, look in looks.items() if look.times]
    if not sections:
        raise AttachError(f"{type(pipe).__name__} was called, but none of its {', '.join(looks)} was")
    asked = {"asked": budget, "tolerance": 0.0}
    provenance = {UNCALIBRATED: "starter_plan", "budget": asked, "steps": steps}
    return Plan(name=f"starter {budget}", sections=tuple(sections), provenance=provenance)


def _looked_at(pipe: Any, steps: int, call: Mapping[str, Any]) -> dict[str, FirstLook]:
    """What one call shows of every network of a pipeline, by component."""
    known = inspect.signature(type(pipe).__call__).parameters
    noise = torch.Generator().manual_seed(0)  # the one that all share stays as it is
    given = {"prompt": "a picture", "output_type": "latent", "generator": noise}
    prompted = any(name.startswith("prompt") for name in call)  # perhaps encoded already
    told = {name: value for name, value in given.items() if name in known and not (prompted and name == "prompt")}
    looks = {name: FirstLook(module, pipe) for name, module in find_transformers(pipe).items()}
    with ExitStack() as stack:
        for look in looks.values():
            stack.callback(look.remove)
            look.install()
        pipe(**told | dict(call), num_inference_steps=steps)
    return looks


def _section(component: str, look: FirstLook, ratio: float, rule: Steps, solver: ClosedFormSolver) -> NetworkPlan:
    steps = len(look.times)
    predicted = 2.0 * solver.depth * look.numel
    spare = steps * look.full_flops / ratio - steps * predicted
    count = min(steps, math.floor(spare / (look.full_flops - predicted) + 1e-9)) if look.full_flops > predicted else 0
    if count < 1:
        raise BudgetError(
            f"budget {ratio:g}x cannot be met by the {component}: one of {steps} steps costs "
            f"{1 / (1 / steps + predicted / max(look.full_flops, 1.0)):.1f}x at least; ask for less, or for more steps"
        )
    section = plain_section(
        look.module,
        {FEATURE: (look.point, look.channels)},
        look.times,
        look.scheduler_times,
        Schedule.from_steps(steps, rule(steps, count)),
        component,
        solver,
        look.sampler,
    )
    forecasts = {name: of.model_copy(update={"numel": look.numel}) for name, of in section.points.items()}
    return section.model_copy(update={"points": forecasts, "action_flops": (look.full_flops, predicted)})


def _speed_up(budget: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)x", str(budget).strip().lower().replace(" ", ""))
    if found is None or float(found[1]) < 1:
        raise BudgetError(f"budget {budget!r} is no speed-up of 1x or more; expected 3x, or use `hyca calibrate`")
    return float(found[1])

"""Steps with quantised weights timed beside steps with the network's own."""

import statistics
from dataclasses import replace
from functools import partial

import torch

from hyca_calib.bench.runtime.costs import TimedVariant
from hyca_calib.bench.runtime.sampled import Sampled
from hyca_calib.costs.flops import seconds_of
from hyca_calib.search.precision.variants import with_roundings
from hyca_runtime import Plan
from hyca_runtime.attach.variants import find_linears
from hyca_runtime.errors import AttachError
from hyca_runtime.schedule import COMPUTE, EVERY, FEATURE, Action, Schedule
from hyca_runtime.variant import BITS, VariantSpec

LOW = "low"
VARIANTS = (*(VariantSpec(scheme=scheme) for scheme in BITS), with_roundings(VariantSpec(scheme="int8"), 2))
"""Every scheme, and int8 as a search has it."""


def measure_variant(subject: Sampled, spec: VariantSpec, steps: int) -> TimedVariant:
    """Time a network's steps, of which every other one is computed with a variant; the first four warm up."""
    dtype = str(subject.latents.dtype).removeprefix("torch.")
    told = TimedVariant(subject.network.name, dtype, str(spec))
    try:
        return _measured(subject, spec, steps, told)
    except (AttachError, torch.OutOfMemoryError) as error:
        return replace(told, error=str(error))


def _measured(subject: Sampled, spec: VariantSpec, steps: int, told: TimedVariant) -> TimedVariant:
    plan, latents, scheduler = _every_other(subject, spec, steps), subject.latents, subject.scheduler
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad(), subject.under(plan) as session:
        scheduler.set_timesteps(steps, device=latents.device)
        for step, t in enumerate(scheduler.timesteps):
            call = {**subject.inputs, "timestep": (t.expand(len(latents)) / subject.network.unit).to(latents.dtype)}
            seconds[step % 2].append(seconds_of(partial(subject.module, **call)))
            scheduler.step(latents.float(), t, latents.float())
        taken = session.report().variant_bytes
    own, low = (1000 * statistics.median(of[2:]) for of in seconds)
    layers = [place.module.get_parameter("weight").nbytes for place in find_linears(subject.module, spec.layers)]
    return replace(told, own_step_ms=own, step_ms=low, own_bytes=sum(layers), bytes=taken)


def _every_other(subject: Sampled, spec: VariantSpec, steps: int) -> Plan:
    section = subject.plan(steps, range(steps)).section
    palette = (COMPUTE, Action(variant=LOW), Action(forecast=(FEATURE,)))
    low = Schedule(palette=palette, tables={EVERY: tuple(step % 2 for step in range(steps))})
    return Plan(name="bench", sections=(section.model_copy(update={"schedule": low, "variants": {LOW: spec}}),))

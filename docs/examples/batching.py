"""Requests of one static plan in shared batches, from which predicted steps are left out; docs/serving.md explains it.

    python docs/examples/batching.py                          # a hand-made plan of three times fewer FLOPs
    python docs/examples/batching.py --plan studies/.../plan.json --slots 8 --requests 400

A static plan says beforehand which requests compute on their next step. So a server can let those share a call of the
network, and let all others pass with a forecast. It measures how long calls take here, draws some pictures so, and then
simulates a server under load: what is served is reckoned from the measured times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.load import load_pipeline
from hyca_runtime import Plan, PlanError, load_plan
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.combine import split_weights, weighted_sum
from hyca_runtime.errors import HycaError
from hyca_runtime.feature import Feature
from hyca_runtime.fit import check_fits
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import Schedule


@dataclass
class Request:
    """A picture that is being drawn.

    Attributes:
        past: the features of its computed steps, newest first.
    """

    latents: Tensor
    condition: dict[str, Tensor]
    scheduler: Any
    step: int = 0
    past: list[Feature] = field(default_factory=list)


class Packer:
    """Draws several requests with one network: each keeps its own latents, scheduler and features.

    Args:
        pipe: the embedded model `demo`, or one called like it, without guidance.
        plan: a static one, of one point, that treats all guidance branches alike and forecasts on some step.

    Raises:
        PlanError: the plan is another, or for another network.
    """

    def __init__(self, pipe: Any, plan: Plan) -> None:
        check_fits(plan.name, plan.sections, find_transformers(pipe), type(pipe).__name__)
        self._pipe, self._section = pipe, plan.section
        if plan.decides_by_sample or self._section.is_joint or self._section.branches:
            raise PlanError(f"plan {plan.name!r}: expected a static plan that treats all guidance branches alike")
        if not self._section.schedule.predicted_steps:
            raise PlanError(f"plan {plan.name!r} computes every step, there is nothing to leave out")
        self._attachment = Attachment(pipe.transformer, self._section.forecast.at)
        self.schedule: Schedule = self._section.schedule

    @torch.no_grad()
    def request(self, prompt: str, seed: int) -> Request:
        """A picture of which nothing is drawn yet; the noise is that of a run alone with this seed."""
        pipe, steps, side = self._pipe, self.schedule.num_steps, self._pipe.config.image_size // 4
        noise = torch.randn(
            1, side * side, pipe.transformer.config.in_channels, generator=torch.Generator().manual_seed(seed)
        )
        scheduler = deepcopy(pipe.scheduler)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
        scheduler.set_begin_index(0)
        return Request(noise, pipe._condition([prompt], side, side), scheduler)  # noqa: SLF001

    def computes(self, request: Request) -> bool:
        """Whether the next step of a request runs the network."""
        return request.step in self.schedule.computed_steps

    @torch.no_grad()
    def advance(self, requests: Sequence[Request]) -> None:
        """One step of each: one call for all that compute, another for all that forecast."""
        groups = {kind: [r for r in requests if self.computes(r) is kind] for kind in (True, False)}
        for compute, group in groups.items():
            if group:
                self._call(group, compute)

    def _call(self, group: Sequence[Request], compute: bool) -> None:
        call = {
            "hidden_states": torch.cat([r.latents for r in group]),
            "timestep": torch.cat([r.scheduler.timesteps[r.step].reshape(1) for r in group]) / 1000,
            "return_dict": False,
        }
        for name, shared in group[0].condition.items():  # position ids count no samples
            call[name] = shared if name.endswith("ids") else torch.cat([r.condition[name] for r in group])
        if compute:
            output, feature = self._attachment.compute((), call)
            assert feature is not None  # noqa: S101
            for i, request in enumerate(group):
                own = Feature((part[i : i + 1] for part in feature), feature.form)
                request.past = [own, *request.past[: self._section.depth() - 1]]
        else:
            made = [self._forecast(request) for request in group]
            parts = (torch.cat(pieces) for pieces in zip(*made, strict=True))
            output = self._attachment.predict(Feature(parts, group[0].past[0].form), (), call)
        for i, request in enumerate(group):
            time = request.scheduler.timesteps[request.step]
            request.latents = request.scheduler.step(output[0][i : i + 1], time, request.latents, return_dict=False)[0]
            request.step += 1

    def _forecast(self, request: Request) -> list[Tensor]:
        taps, past = self._section.taps()[request.step], request.past
        axis = self._section.forecast.at.channel_axis
        widths = tuple(part.shape[axis] for part in past[0])
        weights = split_weights(torch.from_numpy(taps.weights), widths, [part.ndim for part in past[0]], axis)
        return [weighted_sum([f[i] for f in past[: len(taps.history)]], w) for i, w in enumerate(weights)]


@dataclass(frozen=True)
class CallTimes:
    """Seconds of a call of one to so many samples, computed and forecast."""

    full: tuple[float, ...]
    forecast: tuple[float, ...]

    def of(self, computed: int, forecast: int) -> float:
        """Seconds of so many samples; more than were measured together take several calls."""
        return _seconds(self.full, computed) + _seconds(self.forecast, forecast)


def _seconds(times: Sequence[float], samples: int) -> float:
    calls, rest = divmod(samples, len(times))
    return calls * times[-1] + (times[rest - 1] if rest else 0.0)


def measure(packer: Packer, slots: int, repeats: int = 9) -> CallTimes:
    """How long calls take on this machine: the shortest of some, for others on it only make them longer."""
    steps = packer.schedule
    kinds = {True: steps.computed_steps[-1], False: steps.predicted_steps[-1]}
    found: dict[bool, list[float]] = {True: [], False: []}
    for size in range(1, slots + 1):
        for compute, step in kinds.items():
            group = [packer.request("red heart", seed) for seed in range(size)]
            while group[0].step < step:
                packer.advance(group)
            found[compute].append(min(_timed(packer, deepcopy(group)) for _ in range(repeats)))
    return CallTimes(tuple(found[True]), tuple(found[False]))


def _timed(packer: Packer, group: list[Request]) -> float:
    begun = time.perf_counter()
    packer.advance(group)
    return time.perf_counter() - begun


Turn = Callable[[list[int], Sequence[bool], int], tuple[list[int], int]]
"""Of the next steps of who is in flight, whether each computes, and the slots: who moves, and how many compute."""


def together(steps: list[int], computes: Sequence[bool], slots: int) -> tuple[list[int], int]:
    """Naive: requests in flight share every call, so all are computed when one is."""
    del slots
    return [*range(len(steps))], len(steps) * any(computes[step] for step in steps)


def packed(steps: list[int], computes: Sequence[bool], slots: int) -> tuple[list[int], int]:
    """The oldest that compute fill the slots; all that forecast pass beside them."""
    computing = [i for i, step in enumerate(steps) if computes[step]][:slots]
    return sorted(computing + [i for i, step in enumerate(steps) if not computes[step]]), len(computing)


@dataclass(frozen=True)
class Served:
    """What a server did: requests per second, and seconds from the arrival of a request to its end, in the mean."""

    rate: float
    latency: float


def simulate(
    arrivals: Sequence[float],
    computes: Sequence[bool],
    times: CallTimes,
    turn: Turn,
    slots: int,
    in_flight: int,
    waits: bool = False,
) -> Served:
    """A server that takes requests up between calls.

    Args:
        arrivals: when requests come, in seconds, ascending.
        computes: of each step of the plan, whether it computes.
        slots: samples that share a computed call at most.
        in_flight: requests that are taken up at most.
        waits: whether new ones wait until all that were taken up together are done.
    """
    now, taken = 0.0, 0
    steps, born, latencies = list[int](), list[float](), list[float]()
    while len(latencies) < len(arrivals):
        if not steps:
            now = max(now, arrivals[taken])
        while (not waits or not any(steps)) and taken < len(arrivals) and arrivals[taken] <= now < np.inf:
            if len(steps) == in_flight:
                break
            steps.append(0)
            born.append(arrivals[taken])
            taken += 1
        moving, computing = turn(steps, computes, slots)
        now += times.of(computing, len(moving) - computing)
        for i in moving:
            steps[i] += 1
        latencies += [now - born[i] for i, step in enumerate(steps) if step == len(computes)]
        kept = [i for i, step in enumerate(steps) if step < len(computes)]
        steps, born = [steps[i] for i in kept], [born[i] for i in kept]
    return Served(len(arrivals) / (now - arrivals[0]), float(np.mean(latencies)))


def compare(
    computes: Sequence[bool], times: CallTimes, slots: int, requests: int, load: float, seed: int = 0
) -> dict[str, Served]:
    """Three servers under the same Poisson arrivals.

    Args:
        load: requests that come while one request is computed in full on every step, alone in every call.
    """
    rate = load / (times.full[0] * len(computes))
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests)).tolist()
    return {
        "naive": simulate(arrivals, computes, times, together, slots, slots),
        "whole batches": simulate(arrivals, computes, times, together, slots, slots, waits=True),
        "packed": simulate(arrivals, computes, times, packed, slots, 4 * slots),
    }


def three_times(pipe: Any) -> Plan:
    """Every third step computed, the features between them extrapolated."""
    return hand_plan(
        pipe, parse_point("trunk"), lambda: pipe("red heart", output_type="latent"), lambda n: range(0, n, 3)
    )


def main() -> None:
    """Measure, simulate, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan")
    parser.add_argument("--slots", type=int, default=4, help="samples in a computed call at most")
    parser.add_argument("--requests", type=int, default=400)
    options = parser.parse_args()
    if min(options.slots, options.requests) < 1:
        parser.error(f"expected 1 or more slots and requests, got {options.slots} and {options.requests}")
    pipe = load_pipeline("demo", "cpu")
    try:
        packer = Packer(pipe, load_plan(options.plan) if options.plan else three_times(pipe))
    except HycaError as error:
        parser.error(str(error))
    computes = [step in packer.schedule.computed_steps for step in range(packer.schedule.num_steps)]
    times = measure(packer, options.slots)
    for label, seconds in (("computed", times.full), ("forecast", times.forecast)):
        print(f"a {label} call of 1 to {options.slots}, ms: " + " ".join(f"{1e3 * s:.1f}" for s in seconds))
    print("load   " + "".join(f"{name:>34}" for name in ("naive", "whole batches", "packed")) + "   packed over naive")
    for load in (0.5, 1, 2, 4, 8):
        found = compare(computes, times, options.slots, options.requests, load)
        cells = "".join(f"{one.rate:>14.3f}/s, {one.latency:>8.2f} s each" for one in found.values())
        print(f"{load:>4.1f}x {cells}   {found['packed'].rate / found['naive'].rate:.2f}x")


if __name__ == "__main__":
    main()

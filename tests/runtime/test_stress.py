"""Random call sequences: whatever happened before, a run under a used session equals one under a fresh session."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from plans import STEPS, joint_plan, layered_plan, live_plan, make_plan, mixed_plan, probing_plan
from torch import Tensor

from hyca_runtime import Plan, Session
from hyca_runtime.compiled_plan import OnMismatch

SEQUENCES = 200
ALWAYS = range(1000)


@dataclass(frozen=True)
class Run:
    """One simulated pipeline call.

    Attributes:
        seed: of latents and prompts.
        steps: of its sampler.
        first: the step it starts at (image to image).
        branches: names given to cache_context, "" for calls without a name.
        stop: number of network calls after which it is cancelled, or None.
        shuffled: whether the order of branches changes from step to step.
        passes: how often it denoises.
        within: steps on which the second branch is called.
        anew: whether the conditioning is made anew for every call.
        said: steps that the caller says, if they are the plan's.
    """

    seed: int
    batch: int
    words: int
    steps: int
    first: int
    branches: tuple[str, ...]
    stop: int | None
    shuffled: bool
    passes: int
    within: range
    anew: bool
    said: range


def draw_run(chance: random.Random) -> Run:
    named = chance.random() < 0.5
    both = chance.random() < 0.6
    names = ("cond", "uncond") if named else ("", "")
    return Run(
        seed=chance.randrange(10**6),
        batch=chance.choice((1, 1, 2, 3)),
        words=chance.choice((3, 5)),
        steps=chance.choice((STEPS, STEPS, STEPS, 7, 24)),
        first=chance.choice((0, 0, 0, 4)),
        branches=names if both else names[:1],
        stop=chance.randrange(1, 2 * STEPS) if chance.random() < 0.4 else None,
        shuffled=named and chance.random() < 0.5,
        passes=chance.choice((1, 1, 1, 2)),
        within=chance.choice((ALWAYS, ALWAYS, range(1, 6), range(5), range(0, STEPS, 3))),
        anew=chance.random() < 0.25,
        said=chance.choice((range(0), range(0), range(0), ALWAYS, range(1), range(3, 4), range(0, STEPS, 2))),
    )


def network() -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        pooled_projection_dim=6,
        axes_dims_rope=(2, 2, 4),
    ).eval()


class FlowMatchEulerDiscreteScheduler:
    """What the clock reads of a diffusers scheduler, kept as diffusers keeps it."""

    def __init__(self) -> None:
        self.timesteps = torch.zeros(0)
        self.step_index: int | None = None
        self.begin_index: int | None = None

    def set_timesteps(self, times: Tensor, first: int) -> None:
        self.timesteps, self.step_index, self.begin_index = 1000 * times, None, first

    def step(self) -> None:
        index = self.begin_index if self.step_index is None else self.step_index
        assert index is not None, "set_timesteps comes first"
        self.step_index = index + 1


@torch.no_grad()
def sample(
    module: FluxTransformer2DModel, run: Run, scheduler: FlowMatchEulerDiscreteScheduler, session: Session
) -> Tensor:
    """A small guided sampler around the network; returns the latents it came to."""
    generator = torch.Generator().manual_seed(run.seed)
    prompts = [torch.randn(run.batch, run.words, 6, generator=generator) for _ in run.branches]
    pooled = torch.randn(run.batch, 6, generator=generator)
    order = random.Random(run.seed)
    ids = torch.zeros(6, 3), torch.zeros(run.words, 3)
    calls = 0
    latents = torch.randn(run.batch, 6, 4, generator=generator)
    for _ in range(run.passes):
        times = torch.linspace(1.0, 1.0 / run.steps, run.steps)
        scheduler.set_timesteps(times, run.first)
        for step, time in enumerate(times[run.first :]):
            found: list[Tensor] = [latents] * len(run.branches)
            places = list(range(len(run.branches) if step in run.within else 1))
            if run.shuffled:
                order.shuffle(places)
            for place in places:
                if run.stop is not None and calls == run.stop:
                    return latents
                name = run.branches[place]
                number = run.first + step if run.steps == STEPS and run.first + step in run.said else None
                with module.cache_context(name) if name else nullcontext(), session.at(step=number):
                    found[place] = module(
                        hidden_states=latents,
                        encoder_hidden_states=prompts[place].clone() if run.anew else prompts[place],
                        pooled_projections=pooled,
                        timestep=time.expand(run.batch),
                        img_ids=ids[0],
                        txt_ids=ids[1],
                        return_dict=False,
                    )[0]
                calls += 1
            guided = found[0] if len(found) == 1 else found[1] + 2 * (found[0] - found[1])
            latents = latents - guided / run.steps
            scheduler.step()
    return latents


def count_blocks(module: FluxTransformer2DModel) -> Callable[[], list[int]]:
    """From now on, until it is asked: how many blocks each call of the network ran."""
    calls = list[int]()
    blocks = (*module.transformer_blocks, *module.single_transformer_blocks)
    handles = [block.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1)) for block in blocks]
    handles.append(module.register_forward_pre_hook(lambda *_: calls.append(0)))

    def counted() -> list[int]:
        for handle in handles:
            handle.remove()
        return calls

    return counted


def alone(
    module: FluxTransformer2DModel, plan: Plan, run: Run, on_mismatch: OnMismatch, with_scheduler: bool
) -> Tensor:
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = SimpleNamespace(scheduler=scheduler) if with_scheduler else None
    with Session({"transformer": module}, plan, on_mismatch, pipe) as session:
        return sample(module, run, scheduler, session)


@contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.parametrize("with_scheduler", [True, False], ids=["pipeline", "network"])
@pytest.mark.parametrize(
    ("kind", "sequences"),
    [
        (make_plan, SEQUENCES // 5),
        *((kind, SEQUENCES // 6) for kind in (layered_plan, probing_plan, joint_plan, live_plan, mixed_plan)),
    ],
)
def test_sequences_of_runs(
    kind: Callable[[FluxTransformer2DModel], Plan], sequences: int, with_scheduler: bool
) -> None:
    module = network()
    plan = kind(module)
    chance = random.Random(with_scheduler)
    predicted = 0
    for number in range(sequences):
        runs = [draw_run(chance) for _ in range(chance.randint(2, 4))]
        on_mismatch: OnMismatch = chance.choice(("compute", "adapt"))
        with no_warnings():
            expected = [alone(module, plan, run, on_mismatch, with_scheduler) for run in runs]
            scheduler = FlowMatchEulerDiscreteScheduler()
            pipe = SimpleNamespace(scheduler=scheduler) if with_scheduler else None
            with Session({"transformer": module}, plan, on_mismatch, pipe) as session:
                for i, run in enumerate(runs):
                    ran = count_blocks(module)
                    found = sample(module, run, scheduler, session)
                    assert torch.equal(found, expected[i]), f"sequence {number}, run {i}: {runs[: i + 1]}"
                    announced = sum(count.predicted for count in session.report().streams.values())
                    if run.passes == 1 and run.stop is None:
                        idle = ran().count(0)
                        assert kind is not make_plan or idle == announced, (
                            f"sequence {number}, run {i}: {runs[: i + 1]}"
                        )
                        assert announced or session.report().off_plan, f"a silent no-op: {run}"
                    predicted += announced
    assert predicted > 10 * sequences


@pytest.mark.slow
@pytest.mark.parametrize("kind", [make_plan, mixed_plan])
def test_threads_share_one_network(kind: Callable[[FluxTransformer2DModel], Plan]) -> None:
    """Three threads, each with its own pipeline, on one network and one session."""
    module = network()
    plan = kind(module)
    chance = random.Random(7)
    for _ in range(12):
        lanes = [[draw_run(chance) for _ in range(3)] for _ in range(3)]
        with no_warnings():
            expected = [[alone(module, plan, run, "adapt", True) for run in runs] for runs in lanes]
        found: list[list[Any]] = [[] for _ in lanes]
        ready = threading.Barrier(len(lanes))

        def work(lane: int, runs: list[Run], session: Session, found: list[list[Any]], ready: Any) -> None:
            scheduler = FlowMatchEulerDiscreteScheduler()
            ready.wait()
            for run in runs:
                with session.at(pipe=SimpleNamespace(scheduler=scheduler)):
                    found[lane].append(sample(module, run, scheduler, session))

        with ExitStack() as stack:
            stack.enter_context(no_warnings())
            session = stack.enter_context(
                Session(
                    {"transformer": module}, plan, "adapt", SimpleNamespace(scheduler=FlowMatchEulerDiscreteScheduler())
                )
            )
            threads = [threading.Thread(target=work, args=(i, r, session, found, ready)) for i, r in enumerate(lanes)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for lane, runs in enumerate(lanes):
            for i, run in enumerate(runs):
                assert torch.equal(found[lane][i], expected[lane][i]), f"thread {lane}: {run}"

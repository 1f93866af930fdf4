"""Plans beside a ControlNet: it runs where its answer is looked at; pictures are those of one that always runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from controlled import ALL, FLUX, draw
from torch import Tensor, nn

from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.quality.run_flops import run_flops
from hyca_runtime import AttachError, Plan, apply_plan
from hyca_runtime.attach.deferral import Deferral, defer_control
from hyca_runtime.point import parse_point
from studies.zoo import MODELS
from studies.zoo.check import COMPUTED, STEPS, run_of


@cache
def plan_of(name: str, point: str = "trunk", computed: tuple[int, ...] = tuple(COMPUTED)) -> Plan:
    pipe = ALL[name].build()
    return hand_plan(pipe, parse_point(point), lambda: draw(name, pipe), lambda _: computed)


@cache
def always_controlled(name: str, point: str) -> Tensor:
    """What the plan draws if the ControlNet runs on every step: of a network alone the session knows no pipeline."""
    pipe = ALL[name].build()
    with apply_plan(pipe.transformer, plan_of(name, point), on_mismatch="error"), counted(pipe) as calls:
        drawn = draw(name, pipe)
    assert calls() == STEPS
    return drawn


@contextmanager
def counted(pipe: Any) -> Iterator[Callable[[], int]]:
    """Tells how often the ControlNet has run."""
    runs: list[None] = []
    blocks = pipe.controlnet.transformer_blocks
    with blocks[0].register_forward_pre_hook(lambda *_: runs.append(None)):
        yield lambda: len(runs)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("point", "expected"), [("trunk", len(COMPUTED)), ("output", len(COMPUTED)), ("blocks", STEPS)]
)
def test_a_controlnet_rests_where_no_block_reads_it(name: str, point: str, expected: int) -> None:
    pipe = ALL[name].build()
    full = draw(name, pipe)
    with apply_plan(pipe, plan_of(name, point), on_mismatch="error"):
        for _ in range(2):
            with counted(pipe) as runs:
                assert torch.equal(draw(name, pipe), always_controlled(name, point))
            assert runs() == expected
    assert "forward" not in vars(pipe.controlnet)
    assert torch.equal(draw(name, pipe), full)


@pytest.mark.parametrize(("point", "expected"), [("trunk", len(COMPUTED)), ("blocks", STEPS)])
def test_flops_of_networks_and_of_all_that_runs_on_every_step(point: str, expected: int) -> None:
    pipe = ALL[FLUX].build()
    full = run_flops(pipe, lambda: draw(FLUX, pipe))
    with apply_plan(pipe, plan_of(FLUX, point), on_mismatch="error"):
        run = run_flops(pipe, lambda: draw(FLUX, pipe))
    pipe.controlnet.forward = lambda *_, **__: (None, None)
    alone = run_flops(pipe, lambda: draw(FLUX, pipe))
    assert full.networks == alone.networks == alone.steps
    assert full.networks < full.steps
    assert run.networks < full.networks
    assert run.steps - run.networks == pytest.approx((full.steps - full.networks) * expected / STEPS)


def test_a_plan_that_computes_everything_changes_no_bit() -> None:
    pipe = ALL[FLUX].build()
    full = draw(FLUX, pipe)
    with apply_plan(pipe, plan_of(FLUX, computed=tuple(range(STEPS))), on_mismatch="error"):
        assert torch.equal(draw(FLUX, pipe), full)


@pytest.mark.slow
@pytest.mark.parametrize(("compiled", "expected"), [("transformer", len(COMPUTED)), ("controlnet", STEPS)])
def test_a_compiled_controlnet_runs_on_every_step(compiled: str, expected: int) -> None:
    """Beside a compiled network it rests."""
    torch.compiler.reset()
    pipe = ALL[FLUX].build()
    getattr(pipe, compiled).compile(backend="eager")
    session = apply_plan(pipe, plan_of(FLUX), on_mismatch="error")
    with warnings.catch_warnings(action="ignore"), session, counted(pipe) as runs:
        drawn = draw(FLUX, pipe)
    torch.testing.assert_close(drawn, always_controlled(FLUX, "trunk"), rtol=1e-4, atol=1e-5)
    assert runs() == expected
    torch.compiler.reset()


def test_an_offloaded_controlnet_has_its_weights_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    pipe = ALL[FLUX].build()
    monkeypatch.setattr(type(pipe), "_execution_device", torch.device("cpu"))
    with apply_plan(pipe, plan_of(FLUX), on_mismatch="error"), counted(pipe) as runs:
        accelerate.cpu_offload(pipe.controlnet, execution_device=torch.device("cpu"))
        assert torch.equal(draw(FLUX, pipe), always_controlled(FLUX, "trunk"))
    assert runs() == len(COMPUTED)


class Doubling(nn.Module):
    """Stands for a ControlNet."""

    def forward(self, x: Tensor, more: list[Tensor] | None = None) -> tuple[list[Tensor], None]:
        self.calls = getattr(self, "calls", 0) + 1
        return [2 * x, *(more or ())], None


class Owner:
    """Stands for a pipeline."""

    def __init__(self) -> None:
        self.controlnet, self.transformer = Doubling().eval(), nn.Identity()


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def deferral(owner: Owner) -> Iterator[Deferral]:
    points = {"transformer": [parse_point("trunk")]}
    (made,) = defer_control(owner, points)
    assert defer_control(owner, points) == []
    yield made
    made.remove()
    assert "forward" not in vars(owner.controlnet)


@pytest.mark.usefixtures("deferral")
class TestAnswersThatWait:
    @torch.no_grad()
    def test_are_the_tensors_themselves_to_whoever_looks(self, owner: Owner) -> None:
        x = torch.randn(2, 3)
        for value in (x, x + 1, x.T):
            (found,), nothing = owner.controlnet(value)
            assert (found.shape, found.dtype, found.device) == (value.shape, x.dtype, x.device)
            assert found.to(x.dtype) is found
            assert nothing is None
        assert owner.controlnet.calls == 2, "the first call of each shape"
        assert torch.equal(found + 0, 2 * x.T)
        assert torch.equal(torch.cat([found, found]), torch.cat([2 * x.T, 2 * x.T]))
        assert owner.controlnet.calls == 2

    @torch.no_grad()
    def test_are_for_the_arguments_of_their_call(self, owner: Owner) -> None:
        x, more = torch.ones(3), [torch.ones(3)]
        owner.controlnet(x, more)
        found = owner.controlnet(x, more)[0]
        more.clear()
        assert torch.equal(found[1] + 0, torch.ones(3))
        found = owner.controlnet(x, [x])[0]
        x.add_(1)
        with pytest.raises(AttachError, match="changed in place"):
            found[0] + 1

    def test_do_not_wait_where_more_than_arguments_decides(self, owner: Owner) -> None:
        x = torch.ones(3)
        contexts: list[Any] = [torch.enable_grad(), torch.inference_mode(), torch.autocast("cpu")]
        for calls, context in enumerate(contexts):
            with torch.no_grad():
                owner.controlnet(x)
            with context:
                assert type(owner.controlnet(x + 0)[0][0]) is Tensor
            assert owner.controlnet.calls == calls + 2


@torch.no_grad()
def test_hunyuan_takes_the_answers_in_its_loop() -> None:
    """It checks after the loop over its blocks that none is left."""
    tiny = MODELS["HunyuanDiT2DModel"]
    network = tiny.build()

    def drive(sample: Tensor | None = None) -> Tensor:
        more = {} if sample is None else {"controlnet_block_samples": [sample]}
        return torch.stack([network(**call, **{k: [*v] for k, v in more.items()})[0] for call in run_of(tiny)])

    plan = hand_plan(network, parse_point("trunk"), drive, lambda _: COMPUTED)
    with apply_plan(network, plan, on_mismatch="error") as session:
        assert not torch.equal(drive(torch.ones(1, 16, 32)), drive())
        assert session.report().computed == len(COMPUTED)

"""Gradients that compute again what they have no room to keep."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.recompute import SWITCHES, Recomputed, levels_of, recomputing
from hyca_calib.search import refine
from hyca_calib.search.assemble import build_section
from hyca_calib.search.evolve import refine_somehow
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import refine_taps
from hyca_calib.search.refinement_task import Alike, RefinementTask
from hyca_calib.search.settings import Settings
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import solve
from hyca_calib.trace.store import Trace

LEVELS: tuple[Recomputed, ...] = ("nothing", "calls", "blocks")
SETTINGS = Refinement(minutes=60, iterations=2, batch=2, evaluations=1)


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that tensors made inside held at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and (place := leaf.untyped_storage()._cdata) not in self._known:
                self._known.add(place)
                size = leaf.untyped_storage().nbytes()
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(leaf.untyped_storage(), self._gone, place, size)
        return found

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


@pytest.fixture
def task(recorded: Trace, pipe: EmojiPipeline) -> RefinementTask:
    problem = Problem(recorded)
    (candidate,) = solve(problem, Settings(groups=2), [Budget.parse("4 steps")], 0)
    section = build_section(candidate)
    start, expand = coordinates(problem, section, "channel")
    return RefinementTask(pipe, section, start, expand, problem.samples("fit"), problem.samples("select"))


def saved(task: RefinementTask, level: Recomputed) -> tuple[torch.Tensor, int]:
    """The gradient of two samples at a level, and the most bytes that were held at once."""
    theta, kept = task.start.clone().requires_grad_(), Alive()
    with recomputing(task.pipe.transformer, level), Alike(task, level != "nothing") as course, torch.enable_grad():
        course.follow(task.expand(theta))
        with kept:
            (gradient,) = torch.autograd.grad(course.loss([0, 1]), theta)
    return gradient, kept.most


def test_the_deeper_the_less_is_kept_and_gradients_are_the_same(task: RefinementTask) -> None:
    gradients, bytes_ = zip(*(saved(task, level) for level in LEVELS), strict=True)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-3 * gradients[0].abs().max().item())
    assert bytes_[0] > 1.5 * bytes_[1] > 1.5 * bytes_[2] > 0
    told = [refine._kept_bytes(task, level) for level in LEVELS]
    assert told == sorted(told, reverse=True)
    assert told[0] > 2 * told[1] > 2 * told[2]


def test_a_network_is_left_as_it_was_found(pipe: EmojiPipeline) -> None:
    network: Any = pipe.transformer
    before = {part: {name: vars(part).get(name, "-") for name in SWITCHES} for part in network.modules()}

    def interrupted() -> None:
        with recomputing(network, "blocks"):
            assert network.is_gradient_checkpointing
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert before == {part: {name: vars(part).get(name, "-") for name in SWITCHES} for part in network.modules()}
    network.enable_gradient_checkpointing(own := lambda block, *args: block(*args))
    with recomputing(network, "blocks"):
        assert vars(network)[SWITCHES[1]] is not own
    assert network.is_gradient_checkpointing
    assert vars(network)[SWITCHES[1]] is own


def test_only_networks_of_diffusers_recompute_blocks() -> None:
    assert levels_of(torch.nn.Linear(1, 1)) == LEVELS[:2]
    assert levels_of(tiny.glyphs().transformer) == LEVELS


@pytest.mark.parametrize("roomy", range(4))
def test_what_has_no_room_is_tried_at_the_next_level(
    task: RefinementTask, roomy: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to no gradients at all."""
    tried = list[Recomputed]()
    measured = refine._kept_bytes

    def kept_bytes(task: RefinementTask, level: Recomputed) -> int:
        tried.append(level)
        if LEVELS.index(level) < roomy:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return measured(task, level)

    monkeypatch.setattr(refine, "_kept_bytes", kept_bytes)
    _, account = refine_somehow(task, SETTINGS, StudyFolder(tmp_path), 0)
    assert tried == [*LEVELS[: roomy + 1]]
    if roomy < 3:
        assert account["recomputed"] == LEVELS[roomy]
        assert account["iterations"] == 2
    else:
        assert account["by"] == "evolution"
        assert account["because"].startswith("not even one sample's gradient fits memory: CUDA out of memory")
    assert not task.pipe.transformer.is_gradient_checkpointing


def test_levels_are_chosen_by_what_is_allowed(task: RefinementTask, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {level: refine._kept_bytes(task, level) for level in LEVELS}
    monkeypatch.setattr(refine, "_kept_bytes", lambda task, level: kept[level])
    for free, expected in (*((kept[level], level) for level in LEVELS), (1, "blocks")):
        share = SETTINGS.batch / SETTINGS.memory_share
        monkeypatch.setattr(refine, "available_bytes", lambda device, free=free, share=share: 1.001 * free * share)
        assert refine._probed(task, SETTINGS)[1] == expected


def test_memory_that_runs_out_on_the_way_is_met_by_the_next_level(task: RefinementTask, tmp_path: Path) -> None:
    """The same samples, and the same steps as if nothing had been."""

    class Short(Alike):
        def __init__(self, task: RefinementTask, checkpointed: bool) -> None:
            super().__init__(task, checkpointed)
            self._roomy = task.pipe.transformer.is_gradient_checkpointing

        def loss(self, chosen: list[int]) -> torch.Tensor:
            loss = super().loss(chosen)
            if not self._roomy:
                torch.autograd.grad(loss, self._now.taps, retain_graph=True)
                raise torch.OutOfMemoryError("no room")
            return loss

    short = RefinementTask(task.pipe, task.section, task.start, task.expand, task.fit, task.select, Short)
    found, account = refine_taps(short, SETTINGS, tmp_path / "short", seed=0)
    whole, plain = refine_taps(task, SETTINGS, tmp_path / "whole", seed=0)
    assert (account["recomputed"], plain["recomputed"], account["batch"]) == ("blocks", "nothing", 2)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)


def test_faults_of_ours_are_none_of_memory(task: RefinementTask, tmp_path: Path) -> None:
    class Broken(Alike):
        def loss(self, chosen: list[int]) -> torch.Tensor:
            raise ValueError("a fault")

    broken = RefinementTask(task.pipe, task.section, task.start, task.expand, task.fit, task.select, Broken)
    with pytest.raises(ValueError, match="a fault"):
        refine_somehow(broken, SETTINGS, StudyFolder(tmp_path), 0)

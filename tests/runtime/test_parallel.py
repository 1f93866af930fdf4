"""Plans on ranks that each hold a part of every sample: all decide alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import parts
import plans
import pytest
import tiny
import torch

from hyca_runtime import PlanMismatchError, apply_plan
from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.errors import AttachError
from hyca_runtime.finite_guard import FiniteGuard
from hyca_runtime.integrations.parallel import AcrossRanks, across_ranks


def test_parts_of_a_sample(tmp_path: Path) -> None:
    """Diffusers' own context parallelism, on gloo: a forecast of a part is the part of the forecast."""
    first, second = parts.on_two_ranks(parts.parts, tmp_path)
    pipe = tiny.pipeline()
    computed, latents = parts.drawn(pipe, plans.make_plan(pipe.transformer), ALONE)
    for found in (first, second):
        assert found["static"][0] == found["static alone"][0] == computed == (0, 1, 4, 8)
        torch.testing.assert_close(found["static"][1], latents, rtol=1e-4, atol=1e-4)
        assert torch.equal(found["static"][1], found["static alone"][1]), "a static plan has nothing to agree on"
        assert "let them agree: apply_plan(..., ranks=across_ranks(pipe))" in found["policy alone"]
    assert first["policy"][0] == second["policy"][0]
    assert 1 < len(first["policy"][0]) < plans.STEPS
    assert torch.equal(first["policy"][1], second["policy"][1])


def test_what_ranks_see_differs_and_what_they_do_does_not(tmp_path: Path) -> None:
    first, second = parts.on_two_ranks(parts.own_samples, tmp_path)
    assert first["policy alone"][0] != second["policy alone"][0]
    assert first["policy agreed"][0] == second["policy agreed"][0]
    assert first["spoilt alone"][0] != second["spoilt alone"][0]
    assert first["spoilt agreed"][0] == second["spoilt agreed"][0] == second["spoilt alone"][0]


def test_ranks_with_different_plans_are_told(tmp_path: Path) -> None:
    """All of them, at once; else one would compute and wait for another that does not."""
    for found in parts.on_two_ranks(parts.different, tmp_path):
        assert len(found["told"]) == 2
        assert all("ranks that share samples were given different plans" in told for told in found["told"])


class Answer:
    """Of a GPU: there once it was waited for."""

    def __init__(self) -> None:
        self.waited = False

    def query(self) -> bool:
        return self.waited

    def synchronize(self) -> None:
        self.waited = True


def test_ranks_read_what_a_gpu_found_on_the_same_step() -> None:
    """Whoever decides alone takes what is there; ranks wait for what is one forecast old, and for nothing newer."""
    together = Agreement()
    together.alone = False
    for ranks, expected in ((ALONE, [True, True]), (together, [True, False])):
        guard = FiniteGuard(ranks)
        for said in (False, True):
            guard._asked.append((torch.tensor(said), Answer()))
            assert guard._answers() is expected[int(said)]


def test_without_ranks() -> None:
    with pytest.raises(AttachError, match="start with torchrun"):
        AcrossRanks()
    with pytest.raises(AttachError, match="no network of EmojiPipeline is cut over ranks"):
        across_ranks(tiny.pipeline())


def test_another_diffusers_is_told() -> None:
    pipe = tiny.pipeline()
    pipe.transformer._parallel_config = SimpleNamespace(context_parallel_config=SimpleNamespace(ulysses_degree=2))
    with pytest.raises(AttachError, match=r"expected a _flattened_mesh as in 0\.42"):
        across_ranks(pipe)


def test_a_plan_fits_what_xdit_makes_of_a_transformer() -> None:
    """A subclass of the same configuration; one of another is refused as ever."""
    pipe = tiny.pipeline()
    plan = plans.make_plan(pipe.transformer)
    pipe.transformer.__class__ = type("xFuserFlux1Transformer2DWrapper", (type(pipe.transformer),), {})
    with apply_plan(pipe, plan, "error") as session:
        pipe("red heart", num_inference_steps=plans.STEPS)
        assert session.report().computed == 4
    other = tiny.pipeline(heads=4)
    other.transformer.__class__ = pipe.transformer.__class__
    with pytest.raises(PlanMismatchError, match="another configuration"):
        apply_plan(other, plan)

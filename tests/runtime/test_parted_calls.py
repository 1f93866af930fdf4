"""Guidance branches that share one call, each computed on steps of its own."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import Plan, PlanError, PlanMismatchError, apply_plan
from hyca_runtime.errors import MissingHistoryWarning
from hyca_runtime.plan import parse_plan
from hyca_runtime.point import parse_point
from hyca_runtime.solvers import Fitted
from hyca_runtime.stacked import joined, parts_of

STEPS = 6
COMPUTED, HALF = (0,) * STEPS, (0, 1) * (STEPS // 2)
HOLD = {"name": "hold"}


def draw(pipe: GlyphPipeline, guidance: float = 3.0) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(["A", "7"], generator=generators, guidance_scale=guidance, **call)[0]
    return latents


def content_of(pipe: GlyphPipeline, point: str = "trunk", **tables: tuple[int, ...]) -> dict[str, Any]:
    """A plan as JSON that holds; the tables `wanted` and `free` are those of both halves."""
    plan = hand_plan(pipe, parse_point(point), lambda: draw(pipe), lambda steps: (0, 2, 4))
    content: dict[str, Any] = json.loads(plan.model_dump_json())
    (section,) = content["sections"]
    section |= {"stacked": 2, "action_flops": [10.0, 1.0]}
    names = {"wanted": "1/2", "free": "2/2"}
    section["schedule"]["tables"] |= {names[name]: table for name, table in tables.items()}
    section["points"]["feature"]["groups"]["*"][0] |= {"solver": HOLD, "fallback": None}
    return content


class Rows:
    """How many samples come into each block and into the final norm, call by call, and what does."""

    def __init__(self, network: Any) -> None:
        self.blocks = [list[int]() for _ in network.transformer_blocks]
        self.ended, self.answers = list[Tensor](), list[Tensor]()
        for seen, block in zip(self.blocks, network.transformer_blocks, strict=True):
            block.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0])))
        network.norm_out.register_forward_pre_hook(lambda _, args: self.ended.append(args[0]))
        network.register_forward_hook(lambda *call: self.answers.append(call[2][0]))


def plan_of(pipe: GlyphPipeline, point: str = "trunk", **tables: tuple[int, ...]) -> Plan:
    return parse_plan(content_of(pipe, point, **tables), "parted")


def test_one_half_is_computed_and_the_other_forecast() -> None:
    pipe = tiny.glyphs()
    full = draw(pipe)
    with apply_plan(pipe, plan_of(pipe, wanted=COMPUTED, free=HALF), "error") as session:
        seen = Rows(pipe.transformer)
        found = draw(pipe)
        report = session.report()
        assert torch.equal(draw(pipe), found)
    assert all(rows[: len(HALF)] == [4, 2, 4, 2, 4, 2] for rows in seen.blocks), "only the rows of one half run"
    assert {branch: count.computed for (_, branch, _, _), count in report.streams.items()} == {"1/2": 6, "2/2": 3}
    assert report.flops_ratio == pytest.approx(12 * 10 / (9 * 10 + 3 * 1))
    assert (report.computed, report.steps, report.absent) == (STEPS, STEPS, ())
    for step in (0, 2, 4):  # the whole call, then the half that is computed, then the other
        whole, wanted, free = seen.ended[3 * step // 2 : 3 * step // 2 + 3]
        assert (len(whole), len(wanted), len(free)) == (4, 2, 2)
        assert torch.equal(free, whole[2:]), "held"
    assert all(len(answer) == 4 for answer in seen.answers)
    assert torch.equal(draw(pipe), full)


def test_the_answer_is_put_together_in_order() -> None:
    """The second half is computed, the first forecast: each row of the answer is that of its sample."""
    pipe = tiny.glyphs()
    calls = list[tuple[Any, Any]]()
    hook = pipe.transformer.register_forward_pre_hook(lambda *call: calls.append(call[1:]), with_kwargs=True)
    with apply_plan(pipe, plan_of(pipe, wanted=HALF, free=COMPUTED), "error"):
        seen = Rows(pipe.transformer)
        draw(pipe)
    hook.remove()
    args, kwargs = calls[1]
    with torch.no_grad():
        full = pipe.transformer(*args, **kwargs)[0]
    torch.testing.assert_close(seen.answers[1][2:], full[2:])
    assert not torch.allclose(seen.answers[1][:2], full[:2])


def test_computing_all_halves_is_one_call_and_changes_no_bit() -> None:
    pipe = tiny.glyphs()
    full = draw(pipe)
    with apply_plan(pipe, plan_of(pipe, wanted=COMPUTED, free=COMPUTED), "error") as session:
        seen = Rows(pipe.transformer)
        assert torch.equal(draw(pipe), full)
        assert session.report().computed == STEPS
    assert seen.blocks[0] == [4] * STEPS
    assert torch.equal(draw(pipe), full)


def test_halves_on_the_same_steps_are_forecast_in_one_call() -> None:
    """As by one table for both."""
    pipe = tiny.glyphs()
    with apply_plan(pipe, plan_of(pipe), "error"):
        expected = draw(pipe)
    with apply_plan(pipe, plan_of(pipe, wanted=HALF, free=HALF), "error"):
        seen = Rows(pipe.transformer)
        assert torch.equal(draw(pipe), expected)
    assert [len(end) for end in seen.ended] == [4] * STEPS
    assert seen.blocks[0] == [4] * 3


@pytest.mark.parametrize("point", ["output", "behind:1", "trunk:residual", "attention", "blocks"])
def test_at_every_point(point: str) -> None:
    pipe = tiny.glyphs()
    with apply_plan(pipe, plan_of(pipe, point, wanted=COMPUTED, free=HALF), "error") as session:
        found = draw(pipe)
        assert found.isfinite().all()
        assert torch.equal(draw(pipe), found)
        states = [s for _, lane in session._executors["transformer"].lanes_of(False) for s in lane.streams.values()]
        assert [state.nbytes for state in states] == [0, 0], "the memory is given back"


def test_the_guidance_difference_of_a_step_ago() -> None:
    """A half that is forecast weighs what the other computes in the very call, whichever comes first in it."""
    pipe = tiny.glyphs()
    content = content_of(pipe, wanted=HALF, free=COMPUTED)
    difference = Fitted((1, 3, 5), np.array([[[1.0], [-1.0]]] * 3)).spec().model_dump(mode="json")
    source = {"branch": "2/2", "live": True, "solver": difference}
    content["sections"][0]["points"]["feature"]["sources"] = {"1/2": [source]}
    with apply_plan(pipe, parse_plan(content, "difference"), "error"):
        seen = Rows(pipe.transformer)
        draw(pipe)
    for call in (0, 3, 6):
        whole, live, found = seen.ended[call : call + 3]
        torch.testing.assert_close(found, whole[:2] + live - whole[2:], rtol=1e-5, atol=1e-5)


def test_leading_blocks_are_weighed_half_by_half() -> None:
    pipe = tiny.glyphs()
    content = content_of(pipe, "behind:1", wanted=COMPUTED, free=HALF)
    points = content["sections"][0]["points"]
    source = {"point": "probe", "live": True, "solver": {"name": "hold"}}
    points["feature"]["sources"] = {"2/2": [source]}
    points["probe"] = {"at": {"kind": "leading", "path": "1"}, "num_channels": 32}
    with apply_plan(pipe, parse_plan(content, "live"), "error"):
        seen = Rows(pipe.transformer)
        assert draw(pipe).isfinite().all()
    assert [rows[:3] for rows in seen.blocks] == [[4, 2, 2], [4, 2, 4], [4, 2, 4]]


def test_calls_that_cannot_be_parted_are_computed_and_told() -> None:
    pipe = tiny.glyphs()
    plan, full = plan_of(pipe, wanted=COMPUTED, free=HALF), draw(pipe, guidance=1.0)
    with apply_plan(pipe, plan), pytest.warns(MissingHistoryWarning, match="do not hold the guidance branches"):
        assert torch.equal(draw(pipe, guidance=1.0), full)
    with apply_plan(pipe, plan, "error"), pytest.raises(PlanMismatchError, match="do not hold the guidance branches"):
        draw(pipe, guidance=1.0)


def test_guidance_that_ends_during_a_run() -> None:
    """Later calls hold one branch: they are computed, none takes the samples of it for branches."""
    pipe = tiny.glyphs()
    network, plan = pipe.transformer, plan_of(pipe, wanted=COMPUTED, free=HALF)
    times, latents = plan.section.grid.timesteps, torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def called(time: float, labels: list[int]) -> Tensor:
        rows = latents.repeat(len(labels) // 2, 1, 1, 1)
        more = {"timestep": torch.tensor([time] * len(labels)), "class_labels": torch.tensor(labels)}
        found: Tensor = network(rows, **more, return_dict=False)[0]
        return found

    with torch.no_grad(), warnings.catch_warnings(record=True) as told, apply_plan(network, plan) as session:
        warnings.simplefilter("always")
        for step, time in enumerate(times):
            with session.at(step=step):
                found = called(time, [1, 2] if step else [1, 2, 3, 3])
    assert "do not hold the guidance branches" in " ".join(str(warning.message) for warning in told)
    with torch.no_grad():
        assert torch.equal(found, called(times[-1], [1, 2]))


def test_policies_that_probe_decide_for_a_whole_call() -> None:
    content = content_of(tiny.glyphs(), "trunk:residual", wanted=COMPUTED, free=HALF)
    content["sections"][0]["policy"] = {"name": "probed_change", "configuration": {"threshold": 0.1}}
    with pytest.raises(PlanError, match="'probed_change' decides for a whole call, not for branches that share it"):
        parse_plan(content, "plan")


def test_networks_that_cannot_be_parted_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.glyphs()
    plan, together = plan_of(pipe, wanted=COMPUTED, free=HALF), plan_of(pipe)
    monkeypatch.setattr("hyca_runtime.fit.UNPARTED", {type(pipe.transformer).__name__})
    with pytest.raises(
        PlanMismatchError, match="cannot be cut along their batch; search a plan with one table for all"
    ):
        apply_plan(pipe, plan)
    apply_plan(pipe, together).remove()


def test_arguments_are_parted_along_the_batch() -> None:
    latents, text, table = torch.arange(8.0).reshape(4, 2), torch.arange(4.0), torch.zeros(6, 2)
    kwargs = {"hidden_states": latents, "more": {"text": [text, table], "scale": 2.0}, "ids": table, "flag": None}
    first, second = parts_of((torch.tensor(0.5),), kwargs, 2)
    assert torch.equal(second[1]["hidden_states"], latents[2:])
    assert torch.equal(first[1]["more"]["text"][0], text[:2])
    assert second[1]["more"]["text"][1] is table
    assert second[1]["ids"] is table
    assert (second[1]["flag"], second[1]["more"]["scale"], len(second[0])) == (None, 2.0, 1)
    (one, _), (other, _) = parts_of(([*latents], text, [*latents]), {}, 2)
    assert [len(argument) for argument in one] == [2, 2, 2]
    assert torch.equal(other[2][0], latents[2])


def test_places_of_tokens_belong_to_all_parts() -> None:
    latents, ids, each = torch.zeros(4, 7, 2), torch.zeros(4, 3), torch.zeros(4, 5, 3)
    parts = parts_of((), {"hidden_states": latents, "txt_ids": ids, "img_ids": each}, 2)
    assert [len(kwargs["txt_ids"]) for _, kwargs in parts] == [4, 4]
    assert [len(kwargs["img_ids"]) for _, kwargs in parts] == [2, 2]


def test_answers_are_joined_in_order() -> None:
    first, second = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(joined([(first,), (second,)])[0], torch.cat([first, second]))
    (samples,) = joined([([*first],), ([*second],)])
    assert [sample[0] for sample in samples] == [0, 0, 1, 1]
    assert joined([(first, None), (second, None)])[1] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled() -> None:
    torch._dynamo.reset()
    pipe = tiny.glyphs()
    plan = plan_of(pipe, wanted=COMPUTED, free=HALF)
    with apply_plan(pipe, plan, "error"):
        eager = draw(pipe)
    with apply_plan(pipe, plan, "error"):
        pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")
        torch.testing.assert_close(draw(pipe), eager, rtol=1e-3, atol=1e-4)

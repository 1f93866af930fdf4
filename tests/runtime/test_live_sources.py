"""Forecasts of one point that weigh another: its past, or what its blocks added in the very call."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.report.steps import told_sources, told_steps
from hyca_runtime import AttachError, Plan, PlanError, PlanMismatchError, apply_plan, load_plan, save_plan
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.errors import MissingHistoryWarning
from hyca_runtime.plan import parse_plan
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule
from hyca_runtime.solvers import Fitted

STEPS, TABLE = 6, (0, 0, 1, 1, 0, 1)
COMPUTED, PREDICTED = (0, 1, 4), (2, 3, 5)


def emoji(pipe: EmojiPipeline, guidance: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(["red heart"], generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def glyph(pipe: GlyphPipeline, guidance: float = 1.0) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(["A", "7"], generator=generators, guidance_scale=guidance, **call)[0]
    return latents


def guided(pipe: EmojiPipeline) -> Tensor:
    return emoji(pipe, 3.0)


def table(taps: int, width: int, steps: tuple[int, ...] = PREDICTED, seed: int = 0) -> dict[str, Any]:
    weights = np.random.default_rng(seed).normal(0, 0.3, (len(steps), taps, width))
    return Fitted(steps, weights).spec().model_dump(mode="json")


def content_of(
    pipe: Any, draw: Callable[[Any], Tensor], point: str, probe: str, *sources: dict[str, Any], **tables: Any
) -> dict[str, Any]:
    """A plan as JSON: `point` is forecast from two features of its own and what the sources say, `probe` is read."""
    schedule = Schedule(
        palette=(COMPUTE, Action(forecast=("rest",)), Action(forecast=("probe",))), tables={EVERY: TABLE, **tables}
    )
    places = {"rest": parse_point(point), "probe": parse_point("trunk")}
    plan = hand_plan(pipe, places, lambda: draw(pipe), lambda steps: schedule)
    content: dict[str, Any] = json.loads(plan.model_dump_json())
    (section,) = content["sections"]
    section["schedule"]["palette"].pop()
    rest, read = section["points"]["rest"], section["points"]["probe"]
    rest["groups"]["*"][0] |= {"solver": table(2, rest["num_channels"], seed=9), "fallback": None}
    rest["sources"] = {"*": list(sources)}
    read |= {"at": json.loads(parse_point(probe).model_dump_json()), "groups": {}}
    return content


def live_plan(pipe: Any, draw: Callable[[Any], Tensor], point: str, probe: str) -> Plan:
    """What the leading blocks add now and added a step ago is weighed, and a constant."""
    live = {"point": "probe", "live": True, "solver": table(2, 32, seed=1)}
    return parse_plan(content_of(pipe, draw, point, probe, live, {"solver": table(1, 32, seed=2)}), "live")


class Witness:
    """What comes into the first block, out of the leading ones, and to the final norm, call by call; who ran."""

    def __init__(self, network: Any, blocks: int) -> None:
        self.entered, self.reached, self.ended = list[Tensor](), list[Tensor](), list[Tensor]()
        self.every = [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]
        self.calls = [0] * len(self.every)
        for i, block in enumerate(self.every):
            block.register_forward_pre_hook(lambda *_, i=i: self.calls.__setitem__(i, self.calls[i] + 1))
        self.every[0].register_forward_pre_hook(self._enter, with_kwargs=True)
        self.every[blocks - 1].register_forward_hook(self._reach)
        network.norm_out.register_forward_pre_hook(lambda _, args: self.ended.append(args[0]))

    def _enter(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        self.entered.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    def _reach(self, block: nn.Module, args: Any, output: Any) -> None:
        self.reached.append(output[1] if isinstance(output, tuple) else output)

    def added(self, step: int) -> Tensor:
        return self.reached[step] - self.entered[step]


@pytest.mark.parametrize(
    ("make", "draw", "point", "blocks"),
    [
        (tiny.pipeline, emoji, "trunk:residual", 1),
        (tiny.pipeline, emoji, "behind:2", 2),
        (tiny.pipeline, emoji, "behind:3", 1),
        (tiny.glyphs, glyph, "trunk:residual", 2),
        (tiny.glyphs, glyph, "behind:1", 1),
    ],
)
def test_a_forecast_weighs_what_the_leading_blocks_add_in_its_call(
    make: Callable[[], Any], draw: Callable[[Any], Tensor], point: str, blocks: int
) -> None:
    """Written out; every block runs once a step at most, and none that the forecast stands for."""
    pipe = make()
    plan, full = live_plan(pipe, draw, point, f"leading:{blocks}"), draw(pipe)
    running = int(point[7:]) if point.startswith("behind") else blocks
    with apply_plan(pipe, plan, "error") as session:
        seen = Witness(pipe.transformer, blocks)
        found = draw(pipe)
        assert seen.calls == [STEPS] * running + [len(COMPUTED)] * (len(seen.calls) - running)
        report = session.report()
        assert (report.computed, report.steps, report.waits) == (len(COMPUTED), STEPS, 0)
        states = [s for _, lane in session._executors["transformer"].lanes_of(False) for s in lane.streams.values()]
        assert [state.nbytes for state in states] == [0], "the memory is given back"
        assert torch.equal(draw(pipe), found)
    section = plan.section
    bases = Bases(pipe, draw, plan, running if point.startswith("behind") else 0)
    for step in PREDICTED:
        taps, ((_, live), (_, constant)) = section.taps("rest")[step], section.sources("rest", EVERY)
        assert (live[step].history, taps.history) == ((step, step - 1), {2: (1, 0), 3: (1, 0), 5: (4, 1)}[step])
        wanted = bases.of(step) + torch.from_numpy(constant[step].weights[0])
        for at, w in zip(taps.history, taps.weights, strict=True):
            wanted = wanted + torch.from_numpy(w) * (bases.seen.ended[at] - bases.of(at))
        for at, w in zip(live[step].history, live[step].weights, strict=True):
            wanted = wanted + torch.from_numpy(w) * seen.added(at)
        torch.testing.assert_close(seen.ended[step], wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(draw(pipe), full), "restored"


class Bases:
    """What forecasts are added to: the stream before the first block that they stand for."""

    def __init__(self, pipe: Any, draw: Callable[[Any], Tensor], plan: Plan, running: int) -> None:
        self._whole = not running
        with apply_plan(pipe, plan, "error"):
            self.seen = Witness(pipe.transformer, running or 1)
            draw(pipe)

    def of(self, step: int) -> Tensor:
        return self.seen.entered[step] if self._whole else self.seen.reached[step]


@pytest.mark.parametrize("make", [tiny.pipeline, tiny.glyphs])
def test_leading_blocks_and_those_behind_add_what_all_do(make: Callable[[], Any]) -> None:
    pipe = make()
    draw: Callable[[Any], Tensor] = emoji if isinstance(pipe, EmojiPipeline) else glyph
    calls = list[tuple[Any, dict[str, Any]]]()
    hook = pipe.transformer.register_forward_pre_hook(lambda *call: calls.append(call[1:]), with_kwargs=True)
    full = draw(pipe)
    hook.remove()
    places = {text: parse_point(text) for text in ("leading:2", "behind:2", "trunk:residual")}
    attachment = Attachment(pipe.transformer, places)
    with torch.no_grad():
        _, found = attachment.run(*calls[0], places, {})
    parts = {name: feature[0] for name, feature in found.items() if feature is not None}
    torch.testing.assert_close(parts["leading:2"] + parts["behind:2"], parts["trunk:residual"])
    assert torch.equal(draw(pipe), full)


@pytest.mark.parametrize("point", ["trunk:residual", "behind:2"])
def test_computing_everything_changes_no_bit(pipe: EmojiPipeline, point: str) -> None:
    content = json.loads(live_plan(pipe, emoji, point, "leading:2").model_dump_json())
    content["sections"][0]["schedule"]["tables"]["*"] = [0] * STEPS
    full = emoji(pipe)
    with apply_plan(pipe, parse_plan(content, "plan"), "error") as session:
        assert torch.equal(emoji(pipe), full)
        assert session.report().computed == STEPS
    assert torch.equal(emoji(pipe), full)


def test_the_past_of_a_point_that_runs_on_every_step(pipe: EmojiPipeline) -> None:
    """What leading blocks added a step ago, on which the rest may have been forecast."""
    source = {"point": "probe", "solver": table(2, 32)}
    plan = parse_plan(content_of(pipe, emoji, "behind:2", "leading:1", source), "past")
    ((_, taps),) = plan.section.sources("rest", EVERY)
    assert {step: row.history for step, row in taps.items()} == {2: (1, 0), 3: (2, 1), 5: (4, 3)}
    assert (plan.section.depth("probe"), plan.section.depth("rest")) == (3, 2), "that of the very step is there already"
    with apply_plan(pipe, plan, "error") as session:
        assert emoji(pipe).isfinite().all()
        assert session.report().computed == len(COMPUTED)


def test_another_branch_is_read_at_another_point(pipe: EmojiPipeline) -> None:
    """The branch that is called first computes; the other weighs what its leading blocks added on the very step."""
    source = {"branch": "cond", "point": "probe", "live": True, "solver": table(1, 32)}
    content = content_of(pipe, guided, "trunk:residual", "leading:1", cond=(0,) * STEPS)
    content["sections"][0]["points"]["rest"]["sources"] = {"uncond": [source]}
    plan = parse_plan(content, "plan")
    assert set(plan.section.leads.values()) == {0}, "nothing of its own call"
    with apply_plan(pipe, plan, "error"):
        seen = Witness(pipe.transformer, 1)
        guided(pipe)
    assert seen.calls[0] == STEPS + len(COMPUTED)
    order = [branch for step in range(STEPS) for branch in ("cond", "uncond") if branch == "cond" or step in COMPUTED]
    cond, uncond = ([i for i, branch in enumerate(order) if branch == name] for name in ("cond", "uncond"))
    ended = seen.ended[1::2]
    taps, ((_, live),) = plan.section.taps("rest", "uncond"), plan.section.sources("rest", "uncond")
    entered = seen.entered[0]
    assert torch.equal(entered, seen.entered[1]), "both branches have one embedding of the latents"
    for step in PREDICTED:
        wanted = seen.entered[cond[step]] + torch.from_numpy(live[step].weights[0]) * seen.added(cond[step])
        for at, w in zip(taps[step].history, taps[step].weights, strict=True):
            wanted = wanted + torch.from_numpy(w) * (ended[at] - seen.entered[uncond[COMPUTED.index(at)]])
        torch.testing.assert_close(ended[step], wanted, rtol=1e-5, atol=1e-5)


def test_halves_of_a_call_weigh_each_others_leading_blocks() -> None:
    pipe = tiny.glyphs()
    content = content_of(pipe, lambda pipe: glyph(pipe, 3.0), "trunk:residual", "leading:1")
    (section,) = content["sections"]
    section["stacked"] = 2
    names = ("1/2", "2/2")
    for i, name in enumerate(names):
        source = {"branch": names[1 - i], "point": "probe", "live": True, "solver": table(1, 32, seed=i)}
        section["points"]["rest"]["sources"][name] = [source]
    plan = parse_plan(content, "plan")
    with apply_plan(pipe, plan, "error"):
        seen = Witness(pipe.transformer, 1)
        glyph(pipe, 3.0)
    assert seen.calls == [STEPS, len(COMPUTED), len(COMPUTED)]
    for i, name in enumerate(names):
        taps, ((_, live),) = plan.section.taps("rest", name), plan.section.sources("rest", name)
        residuals = [(end - begin).chunk(2)[i] for end, begin in zip(seen.ended, seen.entered, strict=True)]
        for step in PREDICTED:
            wanted = torch.from_numpy(live[step].weights[0]) * seen.added(step).chunk(2)[1 - i]
            for at, w in zip(taps[step].history, taps[step].weights, strict=True):
                wanted = wanted + torch.from_numpy(w) * residuals[at]
            torch.testing.assert_close(residuals[step], wanted, rtol=1e-4, atol=1e-4)


def test_without_the_features_the_call_goes_on(pipe: EmojiPipeline) -> None:
    """Found out behind the leading blocks, which do not run again."""
    source = {"branch": "uncond", "point": "probe", "solver": table(1, 32)}
    plan = parse_plan(content_of(pipe, emoji, "behind:2", "leading:2", source), "plan")
    full, seen = emoji(pipe), Witness(pipe.transformer, 2)
    with apply_plan(pipe, plan), pytest.warns(MissingHistoryWarning, match=r"another point .* 'uncond' at 'probe'"):
        assert torch.equal(emoji(pipe), full)
    assert seen.calls == [STEPS] * 4
    with apply_plan(pipe, plan, "error"), pytest.raises(PlanMismatchError, match="'uncond' at 'probe'"):
        emoji(pipe)
    assert torch.equal(emoji(pipe), full)


def test_runs_on_other_steps_go_by_closed_forms(pipe: EmojiPipeline) -> None:
    content = json.loads(live_plan(pipe, emoji, "behind:2", "leading:2").model_dump_json())
    with apply_plan(pipe, parse_plan(content, "plan"), "adapt") as session:
        pipe(["red heart"], num_inference_steps=2 * STEPS, output_type="latent")
        assert 0 < session.report().computed < 2 * STEPS


def test_memory_counts_what_is_read(pipe: EmojiPipeline, tmp_path: Any) -> None:
    content = json.loads(live_plan(pipe, emoji, "behind:2", "leading:2").model_dump_json())
    for forecast in content["sections"][0]["points"].values():
        forecast["numel"] = 16 * 32
    plan = parse_plan(content, "plan")
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    with apply_plan(pipe, plan, "error") as session:
        ahead = session.memory()
        emoji(pipe)
        assert ahead == session.report().cache_bytes == 4 * (2 + 2) * 16 * 32
    del content["sections"][0]["points"]["probe"]["numel"]
    with apply_plan(pipe, parse_plan(content, "plan")) as session:
        assert session.memory() is None
    assert told_sources(plan.section) == "*: the live value of probe, a constant"
    assert told_steps(plan.section) == "rest on 3 of 6 steps"


LIVE = {"point": "probe", "live": True, "solver": table(1, 32)}


@pytest.mark.parametrize(
    ("point", "probe", "source", "reason"),
    [
        ("behind:1", "leading:2", LIVE, r"'probe', at 'leading:2', is not computed before 'behind:1'"),
        ("trunk", "leading:1", LIVE, "is not computed before 'trunk'"),
        ("trunk:residual", "behind:1", LIVE, "'behind:1', is not computed before 'trunk:residual'"),
        ("attention:*.0", "leading:1", LIVE, "'probe' has 32 channels on axis -1, 'rest' has"),
        ("behind:1", "leading:1", LIVE | {"point": "prob"}, r"another point of the plan, of \['probe'\], got 'prob'"),
        ("behind:1", "leading:1", LIVE | {"point": "rest"}, r"another point of the plan, of \['probe'\], got 'rest'"),
        ("behind:1", "leading:1", LIVE | {"solver": table(1, 7)}, "rows for 7 channels in a group of 32"),
        ("behind:1", "leading:1", {"solver": table(1, 32)}, "points.probe: no action of the palette forecasts it, and"),
    ],
)
def test_what_does_not_fit_is_refused(
    pipe: EmojiPipeline, point: str, probe: str, source: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PlanError, match=reason):
        parse_plan(content_of(pipe, emoji, point, probe, source), "plan")


def test_points_that_are_read_have_no_more_to_say(pipe: EmojiPipeline) -> None:
    content = content_of(pipe, emoji, "behind:1", "leading:1", LIVE)
    points, schedule = content["sections"][0]["points"], content["sections"][0]["schedule"]
    points["probe"]["groups"] = points["rest"]["groups"]
    with pytest.raises(PlanError, match="no action forecasts it, so it has neither groups nor sources"):
        parse_plan(content, "plan")
    schedule["palette"].append({"forecast": ["probe"]})
    with pytest.raises(PlanError, match="'leading:1' is weighed by forecasts, and never forecast itself"):
        parse_plan(content, "plan")
    points["probe"]["groups"] = {}
    schedule["palette"].pop()
    points["rest"]["groups"] = {}
    with pytest.raises(PlanError, match=r"points.rest.groups: expected those of '\*'"):
        parse_plan(content, "plan")


def test_tensors_of_other_shapes_are_told(pipe: EmojiPipeline) -> None:
    source = {"point": "probe", "solver": table(1, 32)}
    content = content_of(pipe, emoji, "behind:1", "modules:context_embedder", source)
    with apply_plan(pipe, parse_plan(content, "plan")), pytest.raises(PlanMismatchError, match=r"have shapes .*, not"):
        emoji(pipe)
    with pytest.raises(AttachError, match="so does 'leading:4'"):
        apply_plan(pipe, parse_plan(content_of(pipe, emoji, "trunk:residual", "leading:4", LIVE), "plan"))
    with pytest.raises(AttachError, match="never forecast itself"):
        Attachment(pipe.transformer, parse_point("leading:1")).predict(None, (), {})  # type: ignore[arg-type]
    assert emoji(pipe).isfinite().all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("point", ["trunk:residual", "behind:2"])
def test_compiled(pipe: EmojiPipeline, point: str) -> None:
    torch._dynamo.reset()
    plan = live_plan(pipe, emoji, point, "leading:1")
    with apply_plan(pipe, plan, "error"):
        eager = emoji(pipe)
    with apply_plan(pipe, plan, "error"):
        pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")
        torch.testing.assert_close(emoji(pipe), eager, rtol=1e-3, atol=1e-4)

"""Points other than trunk and output: spans of blocks, all blocks, modules by pattern, any network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import AttachError, ClockError, Plan, PlanError, apply_plan
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.points import find_modules
from hyca_runtime.plain_section import plain_section
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.schedule import FEATURE, Schedule

STEPS, COMPUTED = 8, (0, 1, 2, 5)


def draw(pipe: EmojiPipeline) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(["red heart"], generator=generator, **call)[0]
    return latents


def count(modules: list[nn.Module]) -> list[int]:
    calls = [0] * len(modules)
    for i, module in enumerate(modules):
        module.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    return calls


@pytest.mark.parametrize(
    ("text", "num_skipped"),
    [
        ("span:transformer_blocks.0..transformer_blocks.1", 2),
        ("span:transformer_blocks.0..transformer_blocks.1:residual", 2),
        ("span:single_transformer_blocks.1..single_transformer_blocks.1:residual", 1),
        ("modules:transformer_blocks.*.attn", 2),
        ("modules:*transformer_blocks.*.ff", 2),
        ("modules:single_transformer_blocks.*:residual", 2),
        ("blocks", 4),
        ("trunk:residual", 4),
    ],
)
def test_only_what_the_point_names_is_skipped(pipe: EmojiPipeline, text: str, num_skipped: int) -> None:
    point, network = parse_point(text), pipe.transformer
    assert str(point) == text
    if point.kind in ("blocks", "trunk"):
        skipped = [*network.transformer_blocks, *network.single_transformer_blocks]
    elif point.kind == "span":
        head, first = point.ends[0].rsplit(".", 1)
        skipped = list(network.get_submodule(head))[int(first) : int(point.ends[1].rsplit(".", 1)[1]) + 1]
    else:
        skipped = [place.module for place in find_modules(network, point.path)]
    full = draw(pipe)
    everything = hand_plan(pipe, point, lambda: draw(pipe), range)
    plan = hand_plan(pipe, point, lambda: draw(pipe), lambda steps: COMPUTED)
    calls, tail = count(skipped), count([network.norm_out])
    with apply_plan(pipe, everything):
        assert torch.equal(draw(pipe), full)
    calls[:], tail[:] = [0] * len(calls), [0]
    with apply_plan(pipe, plan) as session:
        found = draw(pipe)
        assert session.report().computed == len(COMPUTED)
    assert calls == [len(COMPUTED)] * num_skipped
    assert tail == [STEPS]
    assert found.isfinite().all()
    assert not torch.equal(found, full)
    assert torch.equal(draw(pipe), full)


def test_every_block_is_kept_as_residual() -> None:
    """Whole outputs of all blocks would be forecasts of the trunk that cost more."""
    assert CachePoint(kind="blocks") == parse_point("blocks") == parse_point("blocks:residual")
    assert CachePoint(kind="blocks").keep == "residual"
    with pytest.raises(ValueError, match="keep: a point of kind 'blocks' is kept as residual"):
        CachePoint(kind="blocks", keep="output")


def test_a_residual_is_output_less_input(pipe: EmojiPipeline) -> None:
    """Caching all blocks' residuals, a step predicted from its own feature is that step."""
    network = pipe.transformer
    arguments: dict[str, Any] = {}
    network.register_forward_pre_hook(lambda _, args, kwargs: arguments.update(kwargs), with_kwargs=True)
    draw(pipe)
    span = "span:transformer_blocks.0..transformer_blocks.1:residual"
    for text in ("trunk:residual", "blocks", span, "modules:*.attn"):
        attachment = Attachment(network, parse_point(text))
        with torch.no_grad():
            output, feature = attachment.compute((), arguments)
            assert feature is not None
            again = attachment.predict(feature, (), arguments)
        torch.testing.assert_close(again[0], output[0], rtol=1e-5, atol=1e-5)


def test_the_residual_of_the_trunk_sees_the_latent(pipe: EmojiPipeline) -> None:
    """On a predicted step the embedding is that of the call, the rest is the feature."""
    network, calls = pipe.transformer, list[dict[str, Any]]()
    hook = network.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    draw(pipe)
    hook.remove()
    attachment = Attachment(network, parse_point("trunk:residual"))
    seen: list[Tensor] = []
    network.norm_out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        _, feature = attachment.compute((), calls[0])
        assert feature is not None
        torch.testing.assert_close(feature[0], seen[0] - network.x_embedder(calls[0]["hidden_states"]))
        attachment.predict(feature, (), calls[-1])
        torch.testing.assert_close(seen[1], feature[0] + network.x_embedder(calls[-1]["hidden_states"]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("span:transformer_blocks.0..transformer_blocks.9", "has no module 'transformer_blocks.9'"),
        ("span:transformer_blocks.1..transformer_blocks.0", "ends before it begins"),
        ("span:transformer_blocks.0..single_transformer_blocks.1", "within one list"),
        ("span:transformer_block.0..transformer_blocks.1", 'did you mean "transformer_blocks.0"'),
        ("modules:*.attention", "has a path like"),
    ],
)
def test_places_that_are_not_there(pipe: EmojiPipeline, text: str, reason: str) -> None:
    with pytest.raises(AttachError, match=reason):
        Attachment(pipe.transformer, parse_point(text))


@pytest.mark.parametrize("text", ["stem", "span", "span:a", "modules", "output:residual", "output:x", "span:a..b..c"])
def test_points_that_are_none(text: str) -> None:
    with pytest.raises(PlanError, match="expected trunk, output, leading:NUMBER, behind:NUMBER, blocks, span"):
        parse_point(text)


class Layer(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + super().forward(hidden).tanh()


class Plain(nn.Module):
    """Not of diffusers: no config, no cache_context, a list of another name, a timestep called t."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.body = nn.ModuleList([Layer() for _ in range(4)])
        self.last = nn.Linear(8, 6)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = self.first(x) + t[:, None]
        for layer in self.body:
            hidden = layer(hidden)
        found: Tensor = self.last(hidden)
        return found


@torch.no_grad()
def walk(network: nn.Module) -> Tensor:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    for t in torch.linspace(1.0, 1.0 / STEPS, STEPS):
        x = x - network(x, t.expand(3)) / STEPS
    return x


@pytest.mark.parametrize("text", ["output", "span:body.1..body.2", "span:body.0..body.3:residual", "modules:body.*"])
def test_any_network(text: str) -> None:
    network = Plain()
    full = walk(network)
    plan = hand_plan(network, parse_point(text), lambda: walk(network), lambda steps: COMPUTED)
    with apply_plan(network, plan) as session:
        found = walk(network)
        assert session.report().computed == len(COMPUTED)
    assert not torch.equal(found, full)
    torch.testing.assert_close(found, full, atol=0.1, rtol=0.1)
    assert torch.equal(walk(network), full)
    with pytest.raises(AttachError, match=r"has no list of blocks|no final norm"):
        hand_plan(network, CachePoint(), lambda: walk(network), lambda steps: COMPUTED)


class Timeless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_network_without_a_timestep_needs_to_be_told() -> None:
    network = Timeless().eval()
    points = {FEATURE: (CachePoint(kind="output"), 3)}
    section = plain_section(network, points, [3.0, 2.0, 1.0], None, Schedule.from_steps(3, (0, 1)))
    with apply_plan(network, Plan(name="x", sections=(section,))) as session:
        with pytest.raises(ClockError, match=r"session\.at\(step\)"):
            network(torch.ones(1, 3))
        found = []
        for step in range(3):
            with session.at(step):
                found.append(network(torch.full((1, 3), float(step))))
    assert [float(x[0, 0]) for x in found] == [0, 2, 4]  # the last is 2 * 2 - 0, extrapolated

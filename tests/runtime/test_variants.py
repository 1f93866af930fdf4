"""Calls that compute with quantised weights, as a plan's actions ask for them."""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plans import changed, live_plan, make_plan
from torch import Tensor, nn

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.search.precision.calibration import Meter
from hyca_runtime import AttachError, Plan, PlanError, PlanMismatchError, apply_plan
from hyca_runtime.attach import integer_products, variants
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.balanced import Balanced
from hyca_runtime.attach.integer_products import EXACT, ByFloats, integer_product
from hyca_runtime.attach.phased import LEVELS, phased
from hyca_runtime.attach.quantised import quantised
from hyca_runtime.attach.variants import Variants, find_linears
from hyca_runtime.certified import content_digest
from hyca_runtime.flop_count import count_flops
from hyca_runtime.group import SolverSpec
from hyca_runtime.plan import merge_plans, parse_plan
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import COMPUTE, EVERY, FEATURE, Action, Schedule
from hyca_runtime.solvers import Fitted, Hold
from hyca_runtime.variant import BITS, VariantSpec

pytest.importorskip("torchao")
INT8 = VariantSpec(scheme="int8")
LINEAR = "transformer_blocks.0.attn.to_q"


@pytest.fixture
def pipe() -> EmojiPipeline:
    return tiny.pipeline()


def draw(pipe: Any, steps: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    found = pipe("red heart", num_inference_steps=steps, generator=generator, output_type="latent", return_dict=False)[
        0
    ]
    assert isinstance(found, Tensor)
    return found


def standing_under(pipe: EmojiPipeline, path: str) -> nn.Module:
    """What stood for a layer while the pipeline drew."""
    seen = list[nn.Module]()
    own = pipe.transformer.get_submodule(path)

    def look(*_: Any) -> None:
        standing = pipe.transformer.get_submodule(path)
        if standing is not own:
            seen.append(standing)

    handle = pipe.transformer.norm_out.register_forward_pre_hook(look)
    draw(pipe)
    handle.remove()
    return seen[0]


def precise(plan: Plan, at: tuple[int, ...], specs: dict[str, VariantSpec] | None = None, **fields: Any) -> Plan:
    """The plan with steps that compute with the first of some variants."""
    specs = specs or {"low": INT8}
    palette = (*plan.section.schedule.palette, *(Action(variant=name) for name in specs))
    table = list(plan.section.schedule.tables[EVERY])
    for step in at:
        table[step] = len(palette) - len(specs)
    told: dict[str, Any] = {"schedule": Schedule(palette=palette, tables={EVERY: tuple(table)}), "variants": specs}
    costs = (1000.0, 10.0) + (1000.0,) * len(specs)
    bits = (8000.0, 80.0) + (500.0,) * len(specs)
    return changed(plan, **told | {"action_flops": costs, "action_bits": bits} | fields)


def test_steps_compute_with_quantised_weights_and_nothing_of_them_stays(pipe: EmojiPipeline) -> None:
    network, plan = pipe.transformer, make_plan(pipe.transformer)
    full, state = draw(pipe), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    learning = {name: weight.requires_grad for name, weight in network.named_parameters()}
    with apply_plan(pipe, plan):
        expected = draw(pipe)
    with apply_plan(pipe, precise(plan, (4, 8))) as session:
        found = draw(pipe)
        assert network.state_dict().keys() == state.keys()
    assert 1e-5 < (found - expected).norm() / expected.norm() < 1e-2
    told = session.report()
    assert torch.equal(draw(pipe), full)
    assert session.report() is told, "a run without a plan"
    after = network.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert {name: weight.requires_grad for name, weight in network.named_parameters()} == learning
    assert not any("forward" in vars(module) for module in network.modules())


def test_the_report_tells_calls_bytes_and_bit_operations(pipe: EmojiPipeline) -> None:
    blocks = [m for m in pipe.transformer.transformer_blocks.modules() if type(m) is nn.Linear]
    blocks += [m for m in pipe.transformer.single_transformer_blocks.modules() if type(m) is nn.Linear]
    stored = sum(m.weight.numel() + m.out_features * 5 for m in blocks)  # a scale and a zero point for each row
    with apply_plan(pipe, precise(make_plan(pipe.transformer), (4, 8))) as session:
        assert "of quantised weights" in str(session.report())
        draw(pipe)
        report = session.report()
    assert report.variant_bytes == stored
    assert report.computed == 4
    assert report.bits_ratio == pytest.approx(12 * 8000 / (2 * 8000 + 2 * 500 + 8 * 80))
    assert report.flops_ratio == pytest.approx(12 * 1000 / (4 * 1000 + 8 * 10))
    assert "2 calls ran as 'low': int8" in str(report)


def test_only_the_asked_layers_are_quantised_and_alike_ones_are_shared(pipe: EmojiPipeline) -> None:
    own = {LINEAR: pipe.transformer.get_submodule(LINEAR)}
    specs = {"one": VariantSpec(scheme="int8", layers=LINEAR), "all": INT8}
    attachment = Attachment(pipe.transformer, CachePoint(), variants=specs)
    one, every = (
        dict(stand()) for stand in (attachment.variants.stands("one")[0], attachment.variants.stands("all")[0])
    )
    assert {id(module) for module in one.values()} <= {id(module) for module in every.values()}
    ((place, made),) = one.items()
    assert place.path == LINEAR
    assert made.bias is own[LINEAR].bias
    assert type(own[LINEAR].weight) is nn.Parameter


def test_simulated_variants_share_the_weights_and_say_so(pipe: EmojiPipeline) -> None:
    plan = make_plan(pipe.transformer)
    with apply_plan(pipe, plan):
        expected = draw(pipe)
    for scheme in BITS:
        spec = VariantSpec(scheme=scheme, simulated=True)
        with apply_plan(pipe, precise(plan, (4, 8), {"low": spec})) as session:
            assert 0 < (draw(pipe) - expected).norm() < 0.05 * expected.norm()
            assert session.report().variant_bytes == 0
            assert f"{scheme} (simulated)" in str(session.report())
            assert "by bit operations (simulated)" in str(session.report())


def test_what_is_computed_for_want_of_history_has_the_networks_own_weights(pipe: EmojiPipeline) -> None:
    plan = precise(make_plan(pipe.transformer), (1, 4, 8))
    full = draw(pipe, 10)
    with apply_plan(pipe, plan), pytest.warns(UserWarning, match="computed in full"):
        assert torch.equal(draw(pipe, 10), full)


def test_leading_blocks_run_with_a_variant_too(pipe: EmojiPipeline) -> None:
    plan = live_plan(pipe.transformer)
    with apply_plan(pipe, plan):
        expected = draw(pipe)
    palette = (COMPUTE, plan.section.schedule.palette[1].model_copy(update={"variant": "low"}))
    schedule = Schedule(palette=palette, tables=plan.section.schedule.tables)
    with apply_plan(pipe, changed(plan, schedule=schedule, variants={"low": INT8}), on_mismatch="error") as session:
        assert 0 < (draw(pipe) - expected).norm() < 0.05 * expected.norm()
        assert "8 calls ran as 'low'" in str(session.report())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"variants": {"default": {"scheme": "int8"}}}, "'default' cannot be the name"),
        ({"variants": {"../../x": {"scheme": "int8"}}}, "cannot be the name"),
        ({"variants": {"x" * 10**6: {"scheme": "int8"}}}, "cannot be the name"),
        ({"variants": {"low": {"scheme": "int7"}}}, "variants.low.scheme"),
        ({"variants": {"low": {"scheme": "int8", "kernel": "rm -rf"}}}, "unknown field"),
        ({"variants": {"lew": {"scheme": "int8"}}}, 'did you mean "lew"'),
        ({"variants": {f"v{i}": {"scheme": "int8"} for i in range(9)}}, "variants"),
        ({"policy": {"name": "probed_change", "configuration": {"threshold": 0.1}}}, "policy"),
    ],
)
def test_hostile_variants_are_refused_in_one_line(pipe: EmojiPipeline, damage: dict[str, Any], reason: str) -> None:
    content = precise(make_plan(pipe.transformer), (4,)).model_dump(mode="json", exclude_none=True)
    content["sections"][0] |= damage
    with pytest.raises(PlanError, match=reason) as caught:
        parse_plan(content, "plan.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_the_palette_must_have_the_networks_own_weights(pipe: EmojiPipeline) -> None:
    palette = (Action(variant="low"), Action(forecast=(FEATURE,)))
    schedule = Schedule(palette=palette, tables={EVERY: (0,) + (1,) * 11})
    with pytest.raises(ValueError, match="own weights"):
        changed(make_plan(pipe.transformer), schedule=schedule, variants={"low": INT8})


def test_sections_of_one_network_mean_the_same_by_a_name(pipe: EmojiPipeline) -> None:
    plans = [
        precise(
            make_plan(pipe.transformer, steps=steps), (4,), {"low": VariantSpec(scheme="int8", simulated=simulated)}
        )
        for steps, simulated in ((12, False), (14, True))
    ]
    with pytest.raises(PlanError, match="mean the same by 'low'"):
        merge_plans(plans, "both")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (VariantSpec(scheme="int4_weights"), "torchao .* has no int4_weights for float32 weights on cpu"),
        (VariantSpec(scheme="fp8"), "torchao .* has no fp8 for float32 weights on cpu.*simulated"),
        (VariantSpec(scheme="int8", layers="blocks.*.nothing"), "no linear layer in blocks"),
    ],
)
def test_what_cannot_be_made_here_is_told_in_one_line(pipe: EmojiPipeline, spec: VariantSpec, reason: str) -> None:
    if torch.cuda.is_available() and spec.layers == "*":
        pytest.skip("there are kernels")
    full = draw(pipe)
    with pytest.raises(AttachError, match=reason) as caught:
        apply_plan(pipe, precise(make_plan(pipe.transformer), (4,), {"low": spec}))
    assert "\n" not in str(caught.value)
    assert torch.equal(draw(pipe), full)


def test_without_torchao_one_line_says_what_to_install(pipe: EmojiPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(AttachError, match="pip install torchao"):
        apply_plan(pipe, precise(make_plan(pipe.transformer), (4,)))
    with apply_plan(pipe, make_plan(pipe.transformer)):
        draw(pipe)


def test_variants_that_do_not_fit_say_so_beforehand(pipe: EmojiPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_free_bytes", lambda device: 1000)
    monkeypatch.setattr(variants, "phased", lambda *_: pytest.fail("nothing is made"))
    with pytest.raises(AttachError, match=r"'low' .* MiB beside the network's own weights, 0 MiB are free on cpu"):
        apply_plan(pipe, precise(make_plan(pipe.transformer), (4,)))


def test_variants_are_gone_when_the_plan_is_removed(pipe: EmojiPipeline) -> None:
    session = apply_plan(pipe, precise(make_plan(pipe.transformer), (4,)))
    made = weakref.ref(standing_under(pipe, LINEAR))
    gc.disable()
    try:
        session.remove()
        assert made() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("change", ["in place", "replaced", "precision", "other data", "assigned"])
def test_weights_that_change_afterwards_are_noticed(pipe: EmojiPipeline, change: str) -> None:
    layer = pipe.transformer.get_submodule(LINEAR)
    with apply_plan(pipe, precise(make_plan(pipe.transformer), (0,))):
        if change == "in place":
            with torch.no_grad():
                layer.weight.mul_(2)
        elif change == "replaced":
            pipe.transformer.set_submodule(LINEAR, copy.deepcopy(layer))
        elif change == "other data":
            layer.weight.data = layer.weight.data.clone()
        elif change == "assigned":
            layer.load_state_dict({name: of.clone() for name, of in layer.state_dict().items()}, assign=True)
        else:
            layer.to(torch.float64)
        with pytest.raises(AttachError, match=f"{LINEAR} .* after variants of it were made; apply the plan again"):
            draw(pipe)


class EightBit(nn.Linear):
    """As of a library that quantises by a class of its own."""


def test_a_layer_that_stands_twice_is_quantised_in_both_places(pipe: EmojiPipeline) -> None:
    flops = []
    for shares in (False, True):
        blocks = pipe.transformer.transformer_blocks
        if shares:
            blocks[1].attn.to_q = blocks[0].attn.to_q
        paths = {place.path for place in find_linears(pipe.transformer, "*.to_q")}
        assert {f"transformer_blocks.{i}.attn.to_q" for i in range(2)} <= paths
        with Meter(pipe.transformer, {"low": INT8}) as meter:
            draw(pipe)
        flops.append(meter.flops)
    assert flops[0] == flops[1], "each call is counted once"


def test_layers_that_are_quantised_or_moved_already_are_refused(pipe: EmojiPipeline) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    other = tiny.pipeline()
    quantization.quantize_(other.transformer, quantization.Int8WeightOnlyConfig())
    with pytest.raises(AttachError, match="is quantised already"):
        apply_plan(other, precise(make_plan(other.transformer), (4,)))
    of_others = tiny.pipeline()
    for module in of_others.transformer.modules():
        if type(module) is nn.Linear:
            module.__class__ = EightBit
    with pytest.raises(AttachError, match="EightBit are others, quantised already perhaps: load the model in full"):
        apply_plan(of_others, precise(make_plan(of_others.transformer), (4,)))
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(AttachError, match="moved or cast for each call"):
        apply_plan(pipe, precise(make_plan(pipe.transformer), (4,)))


def test_a_request_follows_only_variants_that_were_made(pipe: EmojiPipeline) -> None:
    plan = make_plan(pipe.transformer)
    low = precise(plan, (4, 8))
    lacking = pytest.raises(PlanMismatchError, match="variants that the session lacks")
    with apply_plan(pipe, plan) as session, lacking, session.following(low):
        draw(pipe)
    with apply_plan(pipe, low) as session:
        expected = draw(pipe)
        with session.following(plan):
            assert not torch.equal(draw(pipe), expected)
        assert torch.equal(draw(pipe), expected)


def test_plans_without_variants_read_and_certify_as_before(pipe: EmojiPipeline) -> None:
    plan = make_plan(pipe.transformer)
    content = plan.model_dump(mode="json", exclude_none=True)
    assert not {"variants", "action_bits"} & content["sections"][0].keys()
    costed = changed(plan, action_bits=(8.0, 1.0))
    assert content_digest(costed.section, costed.sections) == content_digest(plan.section, plan.sections)
    low = precise(plan, (4,))
    assert content_digest(low.section, low.sections) != content_digest(plan.section, plan.sections)
    assert parse_plan(low.model_dump(mode="json", exclude_none=True), "plan.json") == low
    assert COMPUTE in low.section.schedule.palette


def corrected(rows: Any) -> VariantSpec:
    return VariantSpec(scheme="int8", corrections={LINEAR: rows})


def test_outputs_are_corrected_on_the_steps_that_say_so(pipe: EmojiPipeline) -> None:
    width = pipe.transformer.get_submodule(LINEAR).out_features
    rows = np.stack([np.ones((2, width)), np.full((2, width), 0.5)], axis=1)
    plan, neutral = make_plan(pipe.transformer), rows * [[[1.0], [0.0]]]
    found = []
    for spec in (INT8, *(corrected(Fitted((4, 5), of).spec()) for of in (neutral, rows))):
        with apply_plan(pipe, precise(plan, (4, 8), {"low": spec})):
            found.append(draw(pipe))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    made = Variants(pipe.transformer, {"low": corrected(Fitted((4, 5), rows).spec())})
    x = torch.randn(3, width)
    layer = next(module for place, module in made.stands("low")[0]() if place.path == LINEAR)
    outputs = list[Tensor]()
    for step in (8, 4, None):
        made.stands("low", step)[0]()
        outputs.append(layer(x))
    assert torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[1], outputs[0] + 0.5)
    saved = precise(plan, (4, 8), {"low": corrected(Fitted((4, 5), rows).spec())})
    assert parse_plan(saved.model_dump(mode="json", exclude_none=True), "plan.json") == saved


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (Hold().spec(), "corrections.*expected 'fitted', got 'hold'"),
        (Fitted((4,), np.ones((1, 3, 1))).spec(), "expected two weights, of an output and of a constant, got 3"),
        (SolverSpec(name="fitted", configuration={"steps": [4], "weights": [[[1e999], [0.0]]]}), "finite"),
        (SolverSpec(name="rm -rf"), "unknown solver"),
    ],
)
def test_hostile_corrections_are_refused_in_one_line(pipe: EmojiPipeline, rows: SolverSpec, reason: str) -> None:
    content = precise(make_plan(pipe.transformer), (4,)).model_dump(mode="json", exclude_none=True)
    content["sections"][0]["variants"]["low"]["corrections"] = {"x" * 10**5: rows.model_dump(mode="json")}
    with pytest.raises(PlanError, match=reason) as caught:
        parse_plan(content, "plan.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_corrections_of_other_layers_are_refused(pipe: EmojiPipeline) -> None:
    rows, plan = Fitted((4,), np.ones((1, 2, 5))).spec(), make_plan(pipe.transformer)
    full = draw(pipe)
    for spec, reason in (
        (corrected(rows), f"{LINEAR} has 32 channels, its corrections are for 5"),
        (VariantSpec(scheme="int8", corrections={"norm_out.linear": rows}), "corrects 'norm_out.linear', which is no"),
    ):
        with pytest.raises(AttachError, match=reason):
            apply_plan(pipe, precise(plan, (4,), {"low": spec}))
    assert torch.equal(draw(pipe), full)


def test_layers_have_schemes_of_their_own(pipe: EmojiPipeline) -> None:
    others = "single_transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_mlp"
    spec = VariantSpec(scheme="int8", schemes={others[0]: "int8_weights", others[1]: None})
    made = Variants(pipe.transformer, {"low": spec, "all": INT8})
    low, every = ({place.path: of for place, of in made.stands(name)[0]()} for name in ("low", "all"))
    assert every.keys() - low.keys() == {others[1]}
    assert {path for path in low if low[path] is not every[path]} == {others[0]}
    assert "2 layers otherwise" in str(spec)
    plan = precise(make_plan(pipe.transformer), (4, 8), {"low": spec})
    assert parse_plan(plan.model_dump(mode="json"), "plan.json") == plan
    with apply_plan(pipe, plan) as session:
        draw(pipe)
        assert session.report().computed == 4
    wrong = VariantSpec(scheme="int8", schemes={"proj_out": None})
    with pytest.raises(AttachError, match="quantises otherwise 'proj_out', which is no layer"):
        apply_plan(pipe, precise(make_plan(pipe.transformer), (4,), {"low": wrong}))
    content = plan.model_dump(mode="json", exclude_none=True)
    content["sections"][0]["variants"]["low"]["schemes"] = {"x": "int7"}
    with pytest.raises(PlanError, match=r"variants\.low\.schemes\.x"):
        parse_plan(content, "plan.json")


@pytest.mark.parametrize("width", [1, EXACT, 3 * EXACT + 7])
def test_products_of_integers_by_floats_are_exact(width: int) -> None:
    a = torch.randint(-128, 128, (5, width), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    a[0], b = -128, torch.full((3, width), -128, dtype=torch.int8).t()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(integer_product(a, b), a.int() @ b.int())


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_an_instruction_for_integers_outputs_are_the_same(
    dtype: torch.dtype, asymmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Linear(48, 16, dtype=dtype)
    spec = VariantSpec(scheme="int8", asymmetric=asymmetric)
    x = torch.randn(2, 8, 48, dtype=dtype)
    with monkeypatch.context() as patched:
        patched.setattr(integer_products, "are_native", lambda device: False)
        slow = quantised(layer, spec)
    assert isinstance(slow, ByFloats)
    with torch.no_grad():
        assert torch.equal(slow(x), slow.inner(x))
    assert count_flops(lambda: slow(x)) == count_flops(lambda: slow.inner(x)) == 2 * 16 * 48 * 16
    assert count_flops(lambda: layer(x)) == 2 * 16 * 48 * 16


def balanced_in(shifts: list[int], simulated: bool = False) -> VariantSpec:
    return VariantSpec(scheme="int8", simulated=simulated, balance={LINEAR: shifts})


def standing(pipe: EmojiPipeline, spec: VariantSpec) -> nn.Module:
    """What stands for `LINEAR`."""
    stands = Variants(pipe.transformer, {"low": spec}).stands("low")[0]()
    return next(module for place, module in stands if place.path == LINEAR)


@pytest.mark.parametrize("simulated", [False, True])
def test_balanced_channels_do_not_take_the_bits_of_others(pipe: EmojiPipeline, simulated: bool) -> None:
    own = pipe.transformer.get_submodule(LINEAR)
    x = torch.randn(64, own.in_features)
    x[:, 3] *= 100
    with torch.no_grad():
        own.weight[:, 3] /= 100
    exact = own(x)
    shifts = [7 if channel == 3 else 0 for channel in range(own.in_features)]
    plain, even = (standing(pipe, spec)(x) for spec in (balanced_in([0] * len(shifts), simulated), balanced_in(shifts)))
    assert (even - exact).norm() < 0.2 * (plain - exact).norm()
    kept = own.weight.clone()
    made = standing(pipe, balanced_in(shifts, simulated))
    assert torch.equal(own.weight, kept)
    stored: Tensor = made.get_parameter("weight")
    weight = stored if simulated else stored.dequantize()
    assert weight[:, 3].abs().max() == pytest.approx(128 * own.weight[:, 3].abs().max().item(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_before_rounding_balance_changes_no_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 16).to(dtype), torch.randn(5, 24).to(dtype)
    powers = torch.exp2(torch.randint(-6, 7, (24,)).float()).to(dtype)
    moved = nn.Linear(24, 16).to(dtype)
    moved.weight, moved.bias = nn.Parameter(layer.weight.detach() * powers), layer.bias
    assert torch.equal(Balanced(moved, powers)(x), layer(x))


def test_balance_is_kept_in_plans_and_hostile_ones_are_refused(pipe: EmojiPipeline) -> None:
    width = pipe.transformer.get_submodule(LINEAR).in_features
    plan = precise(make_plan(pipe.transformer), (4, 8), {"low": balanced_in([1] * width)})
    content = plan.model_dump(mode="json", exclude_none=True)
    assert parse_plan(content, "plan.json") == plan
    assert str(balanced_in([1])) == "int8, 1 layers balanced"
    with apply_plan(pipe, plan) as session:
        draw(pipe)
        assert session.report().computed == 4
    for balance in ({LINEAR: [400]}, {LINEAR: ["x"]}, {LINEAR: 3}):
        content["sections"][0]["variants"]["low"]["balance"] = balance
        with pytest.raises(PlanError, match="balance"):
            parse_plan(content, "plan.json")
    for spec, reason in (
        (balanced_in([0, 1]), f"{LINEAR} takes {width} channels, its balance is for 2"),
        (VariantSpec(scheme="int8", balance={"proj_out": [0]}), "balances 'proj_out', which is no layer"),
    ):
        with pytest.raises(AttachError, match=reason):
            apply_plan(pipe, precise(make_plan(pipe.transformer), (4,), {"low": spec}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("simulated", [False, True])
def test_errors_of_weights_in_turn_cancel(dtype: torch.dtype, simulated: bool) -> None:
    """The mean over N phases is as if a rounding step were an N-th of what it is."""
    torch.manual_seed(0)
    layer, x = nn.Linear(512, 64).to(dtype), (torch.randn(64, 512) + 1).to(dtype)
    nn.init.normal_(layer.weight)
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    spec = VariantSpec(scheme="int8_weights", simulated=simulated, phases=(0.0, 0.5, 0.25, 0.75))
    made = [phased(layer, phase, spec)(x) for phase in spec.phases]
    assert {one.dtype for one in made} == {dtype}
    errors = [one.double() - exact for one in made]
    sizes = [error.norm().item() for error in errors]
    assert max(sizes) < 1.2 * min(sizes), "no phase is worse than another"
    left = (torch.stack(errors).mean(0).norm() / sizes[0]).item()
    assert left < (0.35 if dtype == torch.float32 else 0.65), "outputs in bfloat16 are rounded, too"


def test_all_phases_have_the_rounding_steps_of_torchao() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    nn.init.normal_(layer.weight)
    expected = layer.weight.detach().abs().amax(1) / LEVELS
    for phase in (0.0, 0.5, 0.75):
        stored: Any = phased(layer, phase, INT8).get_parameter("weight")
        assert torch.allclose(stored.scale.flatten(), expected, rtol=1e-5)


def low_of(pipe: EmojiPipeline, spec: VariantSpec, turn: int) -> nn.Module:
    """What stands for `LINEAR` at a turn."""
    stands = Variants(pipe.transformer, {"low": spec}).stands("low", None, turn)[0]()
    return next(module for place, module in stands if place.path == LINEAR)


def test_balanced_layers_are_rounded_in_turn(pipe: EmojiPipeline) -> None:
    own = pipe.transformer.get_submodule(LINEAR)
    spec = balanced_in([1] * own.in_features).model_copy(update={"phases": (0.0, 0.5)})
    x = torch.randn(64, own.in_features)
    errors = [low_of(pipe, spec, turn)(x) - own(x) for turn in range(3)]
    assert (errors[0] + errors[1]).norm() / 2 < 0.9 * min(error.norm() for error in errors)
    assert torch.equal(errors[0], errors[2])


def test_steps_take_phases_in_turn_and_the_bytes_of_each(pipe: EmojiPipeline) -> None:
    """The first low step has the first, the second the second, wherever they are."""
    plan, plain = make_plan(pipe.transformer), VariantSpec(scheme="int8", asymmetric=True)
    drawn, taken, told = dict[tuple[float, ...], Tensor](), dict[tuple[float, ...], int](), ""
    for phases in ((0.0,), (0.5,), (0.0, 0.5), (0.5, 0.0)):
        spec = plain.model_copy(update={"phases": phases})
        with apply_plan(pipe, precise(plan, (4, 8), {"low": spec})) as session:
            drawn[phases], taken[phases] = draw(pipe), session.report().variant_bytes
            told = str(session.report())
    assert len({float(of.sum()) for of in drawn.values()}) == 4
    assert taken[0.0, 0.5] == 2 * taken[0.0,] == 2 * taken[0.5,]
    assert "2 calls ran as 'low': int8, asymmetric, rounded in 2 ways in turn" in told
    schedule = precise(plan, (4, 8)).section.schedule
    assert [schedule.turn("low", at) for at in (0, 4, 4.5, 5, 8, 9, 11)] == [0, 0, 1, 1, 1, 2, 2]


def test_plans_of_other_schedules_share_roundings(pipe: EmojiPipeline) -> None:
    """A session follows a plan whose low steps are others, and sections of other grids are merged."""
    spec = {"low": INT8.model_copy(update={"phases": (0.0, 0.5)})}
    plans = [precise(make_plan(pipe.transformer), at, spec) for at in ((4, 8), (4,))]
    with apply_plan(pipe, plans[1]):
        expected = draw(pipe)
    with apply_plan(pipe, plans[0]) as session, session.following(plans[1]):
        assert torch.equal(draw(pipe), expected)


def test_a_variant_of_no_layer_runs_the_networks_own(pipe: EmojiPipeline) -> None:
    plan = make_plan(pipe.transformer)
    with apply_plan(pipe, plan):
        expected = draw(pipe)
    spec = VariantSpec(scheme="int8", layers=LINEAR, schemes={LINEAR: None})
    with apply_plan(pipe, precise(plan, (4, 8), {"low": spec})):
        assert torch.equal(draw(pipe), expected)


def test_asymmetric_activations_have_a_bit_more_where_all_have_one_sign(pipe: EmojiPipeline) -> None:
    torch.manual_seed(0)
    own = pipe.transformer.get_submodule(LINEAR)
    x = torch.rand(256, own.in_features)
    exact = own(x)
    even, uneven = (
        (standing(pipe, VariantSpec(scheme="int8", asymmetric=asymmetric))(x) - exact).norm()
        for asymmetric in (False, True)
    )
    weights = (standing(pipe, VariantSpec(scheme="int8_weights"))(x) - exact).norm()
    assert (uneven**2 - weights**2) < 0.4 * (even**2 - weights**2)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"scheme": "fp8", "phases": [0.5]}, "int8, int8_weights alone"),
        ({"scheme": "int8", "schemes": {LINEAR: "int4_weights"}, "phases": [0.5]}, "int8, int8_weights alone"),
        ({"scheme": "int8", "phases": [i / 9 for i in range(9)]}, "phases"),
        ({"scheme": "int8", "phases": []}, "phases"),
        ({"scheme": "int8", "phases": [1.0]}, "phases"),
        ({"scheme": "int8", "phases": [-0.5]}, "phases"),
        ({"scheme": "int8", "phases": [0.5, 0.5]}, "twice"),
    ],
)
def test_hostile_phases_are_refused_in_one_line(pipe: EmojiPipeline, told: dict[str, Any], reason: str) -> None:
    content = precise(make_plan(pipe.transformer), (4,)).model_dump(mode="json", exclude_none=True)
    content["sections"][0]["variants"]["low"] = told
    with pytest.raises(PlanError, match=reason) as caught:
        parse_plan(content, "plan.json")
    assert len(str(caught.value)) < 400

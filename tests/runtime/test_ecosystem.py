"""Plans beside LoRA, offloading, regional compilation, quantisation, data parallelism and other caches.

The reference is always the same plan on a pipeline to which nothing else was done, or the pipeline
without a plan. Where weights are said to stay away, those that are away hold NaN or nothing at all.
"""

from __future__ import annotations

import copy
import functools
import gc
import io
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel, TorchAoConfig
from plans import STEPS as EMOJI_STEPS
from plans import make_plan
from torch import Tensor, nn

from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import AttachError, Plan, PlanMismatchError, Session, apply_plan
from hyca_runtime.attach.points import find_block_lists
from hyca_runtime.plan import merge_plans
from hyca_runtime.point import parse_point
from hyca_runtime.precision import precision_of
from studies.zoo import MODELS, PIPELINES
from studies.zoo.check import COMPUTED, STEPS, counted_blocks, run_of

ZOO = ["FLUX.1", "Wan 2.1"]
BRANCHES = 2
"""Both pipelines call their network twice a step, with and without the prompt."""

Prepare = Callable[[Any], None]
"""Does something of the ecosystem to a pipeline."""


def draw(name: str, pipe: Any) -> Tensor:
    return PIPELINES[name].call(pipe, STEPS)


@functools.cache
def plan_of(name: str, *computed: int, point: str = "trunk") -> Plan:
    pipe = PIPELINES[name].build()
    return hand_plan(pipe, parse_point(point), lambda: draw(name, pipe), lambda _: computed or COMPUTED)


@functools.cache
def plain(name: str) -> Tensor:
    """Without a plan."""
    return draw(name, PIPELINES[name].build())


@functools.cache
def planned(name: str) -> Tensor:
    """By the plan, with nothing else done."""
    pipe = PIPELINES[name].build()
    with apply_plan(pipe, plan_of(name), on_mismatch="error"):
        return draw(name, pipe)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    return [block for place in find_block_lists(network) for block in place.module.children()]


def in_order(pipe: Any, plan: Plan, prepare: Prepare, order: str) -> Session:
    """The plan applied after `prepare`, or before it."""
    if order == "plan last":
        prepare(pipe)
    session = apply_plan(pipe, plan, on_mismatch="error")
    if order == "plan first":
        prepare(pipe)
    return session


ORDERS = pytest.mark.parametrize("order", ["plan last", "plan first"])
PIPES = pytest.mark.parametrize("name", ZOO)


# LoRA

LORA_TARGETS = {
    "FLUX.1": ["to_q", "to_v", "norm_out.linear", "proj_out"],
    "Wan 2.1": ["to_q", "to_v", "proj_out"],
}


def add_lora(name: str, pipe: Any) -> None:
    """An adapter of weights that matter, on the blocks and on what runs at predicted steps."""
    peft = pytest.importorskip("peft")
    network = pipe.transformer
    network.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=LORA_TARGETS[name]), adapter_name="style")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, weight in network.named_parameters():
            if "lora_" in path:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    tail = [path for path, _ in network.named_parameters() if "lora_" in path and "blocks" not in path]
    assert tail
    assert any("blocks" in path and "lora_" in path for path, _ in network.named_parameters())


@functools.cache
def lora_drawn(name: str, with_plan: bool) -> Tensor:
    pipe = PIPELINES[name].build()
    add_lora(name, pipe)
    if not with_plan:
        return draw(name, pipe)
    with apply_plan(pipe, plan_of(name), on_mismatch="error"):
        return draw(name, pipe)


@PIPES
@ORDERS
def test_a_lora_is_followed_in_either_order(name: str, order: str) -> None:
    pipe = PIPELINES[name].build()
    session = in_order(pipe, plan_of(name, *range(STEPS)), lambda p: add_lora(name, p), order)
    assert not torch.equal(lora_drawn(name, False), plain(name))
    assert torch.equal(draw(name, pipe), lora_drawn(name, False))
    session.remove()
    with counted_blocks(pipe) as calls, apply_plan(pipe, plan_of(name), on_mismatch="error"):
        assert torch.equal(draw(name, pipe), lora_drawn(name, True))
        assert {count for _, count in calls} == {BRANCHES * len(COMPUTED)}
    assert torch.equal(draw(name, pipe), lora_drawn(name, False))


@PIPES
def test_a_lora_comes_and_goes_while_the_plan_stays(name: str) -> None:
    pipe = PIPELINES[name].build()
    with apply_plan(pipe, plan_of(name), on_mismatch="error") as session:
        add_lora(name, pipe)
        assert torch.equal(draw(name, pipe), lora_drawn(name, True))
        pipe.transformer.disable_adapters()
        assert torch.equal(draw(name, pipe), planned(name))
        pipe.transformer.enable_adapters()
        assert torch.equal(draw(name, pipe), lora_drawn(name, True))
        pipe.transformer.fuse_lora()
        torch.testing.assert_close(draw(name, pipe), lora_drawn(name, True), rtol=1e-3, atol=1e-3)
        pipe.transformer.unfuse_lora()
        pipe.transformer.delete_adapters("style")
        torch.testing.assert_close(draw(name, pipe), planned(name), rtol=1e-3, atol=1e-3)
        assert session.report().computed == len(COMPUTED)
    assert "forward" not in vars(pipe.transformer)


@PIPES
def test_a_lora_on_the_tail_acts_on_predicted_steps(name: str) -> None:
    pipe = PIPELINES[name].build()
    add_lora(name, pipe)
    calls = [0]
    pipe.transformer.proj_out.lora_A["style"].register_forward_pre_hook(lambda *_: count_up(calls))
    with apply_plan(pipe, plan_of(name), on_mismatch="error"):
        draw(name, pipe)
    assert calls[0] == BRANCHES * STEPS


def count_up(calls: list[int]) -> None:
    calls[0] += 1


# Offloading: each device is the CPU, but what is offloaded is really gone.


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, of: str) -> Iterator[list[Any]]:
    """What `owner.method` was called for: an attribute of the instance, or its first argument."""
    seen: list[Any] = []
    inner = getattr(owner, method)

    def record(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(getattr(self, of) if of else args[0])
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, record)
    yield seen


def offload_by_groups(kind: str, folder: Path) -> Prepare:
    """diffusers' group offloading to the disk; groups that are not loaded hold NaN."""

    def prepare(pipe: Any) -> None:
        from diffusers.hooks import apply_group_offloading

        apply_group_offloading(
            pipe.transformer,
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type=kind,
            num_blocks_per_group=1 if kind == "block_level" else None,
            offload_to_disk_path=str(folder),
        )

    return prepare


@pytest.fixture
def gone_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.hooks.group_offloading import ModuleGroup

    inner = ModuleGroup.offload_

    def offload(self: Any) -> None:
        inner(self)
        for tensor in self.tensor_to_key:
            tensor.data.fill_(float("nan"))

    monkeypatch.setattr(ModuleGroup, "offload_", offload)


@PIPES
@ORDERS
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
@pytest.mark.usefixtures("gone_is_nan")
def test_group_offloading_loads_no_block_on_a_predicted_step(
    name: str, order: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.hooks.group_offloading import ModuleGroup

    pipe = PIPELINES[name].build()
    session = in_order(pipe, plan_of(name), offload_by_groups(kind, tmp_path), order)
    inside = {id(module) for block in blocks_of(pipe.transformer) for module in block.modules()}
    with recorded(monkeypatch, ModuleGroup, "onload_", "modules") as loaded:

        def loads_of_blocks() -> int:
            blocks = sum(any(id(module) in inside for module in modules) for modules in loaded)
            assert len(loaded) > blocks  # the tail and the embedders are loaded in any case
            loaded.clear()
            return blocks

        assert torch.equal(draw(name, pipe), planned(name))
        with_plan = loads_of_blocks()
        assert torch.equal(draw(name, pipe), planned(name))
        assert loads_of_blocks() == with_plan
        session.remove()
        assert torch.equal(draw(name, pipe), plain(name))
        assert with_plan * STEPS == loads_of_blocks() * len(COMPUTED)


def offload_by_accelerate(pipe: Any) -> None:
    """Parameters are on the meta device but while their module runs."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    assert all(p.device.type == "meta" for p in pipe.transformer.parameters())


@PIPES
@ORDERS
def test_sequential_offloading_loads_no_block_on_a_predicted_step(
    name: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    pipe = PIPELINES[name].build()
    monkeypatch.setattr(type(pipe), "_execution_device", torch.device("cpu"))  # it would ask the vae, which has no hook
    session = in_order(pipe, plan_of(name), offload_by_accelerate, order)
    inside = {id(module) for block in blocks_of(pipe.transformer) for module in block.modules()}
    with recorded(monkeypatch, hooks.AlignDevicesHook, "pre_forward", "") as loaded:

        def loads_of_blocks() -> int:
            blocks = sum(id(module) in inside for module in loaded)
            loaded.clear()
            return blocks

        assert torch.equal(draw(name, pipe), planned(name))
        with_plan = loads_of_blocks()
        session.remove()
        assert torch.equal(draw(name, pipe), plain(name))
        assert with_plan * STEPS == loads_of_blocks() * len(COMPUTED)
    hooks.remove_hook_from_module(pipe.transformer, recurse=True)
    assert torch.equal(draw(name, pipe), plain(name))


def offload_whole_models(pipe: Any) -> None:
    pytest.importorskip("accelerate")
    pipe.enable_model_cpu_offload(device="cpu")


@PIPES
@pytest.mark.parametrize("order", ["plan last", "plan first"])
def test_model_offloading_renews_its_hooks_and_the_plan_goes_on(name: str, order: str) -> None:
    """`maybe_free_model_hooks` takes all hooks off and puts new ones on at the end of each run."""
    pipe = PIPELINES[name].build()
    session = in_order(pipe, plan_of(name), offload_whole_models, order)
    for _ in range(3):
        assert torch.equal(draw(name, pipe), planned(name))
        assert session.report().computed == len(COMPUTED)


@PIPES
@ORDERS
def test_removal_under_model_offloading_gives_the_plain_pipeline(name: str, order: str) -> None:
    pipe = PIPELINES[name].build()
    session = in_order(pipe, plan_of(name), offload_whole_models, order)
    assert torch.equal(draw(name, pipe), planned(name))
    session.remove()
    for _ in range(2):
        assert torch.equal(draw(name, pipe), plain(name))
    pipe.remove_all_hooks()
    assert torch.equal(draw(name, pipe), plain(name))


@pytest.mark.parametrize("order", ["plan last", "plan first"])
def test_a_diffusers_hook_on_the_network_is_taken_off(order: str) -> None:
    """What group offloading with streams does after the first call, when it knows the order of the layers."""
    from diffusers.hooks import HookRegistry, ModelHook

    pipe = PIPELINES["FLUX.1"].build()
    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer)
    session = in_order(pipe, plan_of("FLUX.1"), lambda _: registry.register_hook(ModelHook(), "test"), order)
    assert torch.equal(draw("FLUX.1", pipe), planned("FLUX.1"))
    registry.remove_hook("test", recurse=False)
    assert torch.equal(draw("FLUX.1", pipe), planned("FLUX.1"))
    session.remove()
    assert torch.equal(draw("FLUX.1", pipe), plain("FLUX.1"))


class NoStream:
    """A CUDA stream on a machine without CUDA: what is put on it is done at once."""

    def synchronize(self) -> None:
        return None


class NoStreams:
    """The streams of a device without any, as `ModuleGroup` asks for them."""

    def __init__(self, device: torch.device) -> None:
        del device

    def current_stream(self) -> NoStream:
        return NoStream()

    def stream(self, stream: NoStream) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("order", ["plan last", "plan first"])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_prefetching_in_streams(kind: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are loaded ahead in the order of the first call; the hook that traces it takes itself off."""
    from diffusers.hooks import group_offloading as hooks

    monkeypatch.setattr(hooks, "TorchDeviceBackend", NoStreams)
    monkeypatch.setattr(Tensor, "is_pinned", lambda _: True)

    def prepare(pipe: Any) -> None:
        config = hooks.GroupOffloadingConfig(
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type=hooks.GroupOffloadingType(kind),
            num_blocks_per_group=1,
            non_blocking=True,
            record_stream=False,
            low_cpu_mem_usage=True,
            stream=NoStream(),
        )
        hooks._apply_group_offloading(pipe.transformer, config)

    pipe = PIPELINES["FLUX.1"].build()
    session = in_order(pipe, plan_of("FLUX.1"), prepare, order)
    with recorded(monkeypatch, hooks.GroupOffloadingHook, "pre_forward", "") as called:
        assert torch.equal(draw("FLUX.1", pipe), planned("FLUX.1"))
        blocks = blocks_of(pipe.transformer)
        inside = {id(module) for block in blocks for module in block.modules()}
        assert torch.equal(draw("FLUX.1", pipe), planned("FLUX.1"))
        called.clear()
        draw("FLUX.1", pipe)
        with_plan = sum(id(module) in inside for module in called)
        session.remove()
        called.clear()
        assert torch.equal(draw("FLUX.1", pipe), plain("FLUX.1"))
        assert with_plan * STEPS == sum(id(module) in inside for module in called) * len(COMPUTED)


# Regional compilation


@contextmanager
def fresh_dynamo() -> Iterator[Any]:
    """Counters of the compiler, empty at the start."""
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own, while it traces
        yield counters
    torch.compiler.reset()


def deep_pipeline() -> Any:
    """A FLUX of twelve plus twelve blocks."""
    from diffusers import FluxTransformer2DModel

    pipe = tiny.pipeline()
    config = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")}
    torch.manual_seed(0)
    pipe.transformer = FluxTransformer2DModel(**{**config, "num_layers": 12, "num_single_layers": 12}).eval()
    return pipe


def emoji(pipe: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents: Tensor = pipe(
        ["red heart", "blue cat"],
        num_inference_steps=EMOJI_STEPS,
        output_type="latent",
        generator=generator,
        return_dict=False,
    )[0]
    return latents


def compile_blocks(pipe: Any) -> None:
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")


@ORDERS
def test_blocks_are_compiled_as_often_as_without_a_plan(order: str) -> None:
    with fresh_dynamo() as counters:
        pipe = deep_pipeline()
        compile_blocks(pipe)
        full = emoji(pipe)
        graphs = counters["stats"]["unique_graphs"]
        assert 2 <= graphs <= 6  # by kind of block, not by block
    pipe = deep_pipeline()
    plan = make_plan(pipe.transformer)
    with apply_plan(pipe, plan):
        eager = emoji(pipe)
    with fresh_dynamo() as counters:
        session = in_order(pipe, plan, compile_blocks, order)
        torch.testing.assert_close(emoji(pipe), eager, rtol=1e-5, atol=1e-5)
        assert session.report().computed == len(plan.section.schedule.computed_steps)
        assert counters["stats"]["unique_graphs"] == graphs
        emoji(pipe)
        session.remove()
        torch.testing.assert_close(emoji(pipe), full, rtol=1e-5, atol=1e-5)
        assert counters["stats"]["unique_graphs"] == graphs
        assert not counters["graph_break"]


# Quantisation


def quantise(pipe: Any, lora: bool = False) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(pipe.transformer, quantization.Int8WeightOnlyConfig())
    inside = ".base_layer" if lora else ""
    for path in ("proj_out", "transformer_blocks.0.attn.to_q"):
        assert type(pipe.transformer.get_parameter(f"{path}{inside}.weight")) is not nn.Parameter


@ORDERS
def test_int8_weights_are_predicted_the_same_in_either_order(order: str) -> None:
    name = "FLUX.1"
    pipe = PIPELINES[name].build()
    quantise(pipe)
    full = draw(name, pipe)
    with apply_plan(pipe, plan_of(name), on_mismatch="error"):
        expected = draw(name, pipe)
    assert expected.isfinite().all()
    assert not torch.equal(full, plain(name))
    assert (expected - planned(name)).norm() < 0.1 * planned(name).norm()
    pipe = PIPELINES[name].build()
    session = in_order(pipe, plan_of(name), quantise, order)
    with counted_blocks(pipe) as calls:
        assert torch.equal(draw(name, pipe), expected)
    assert {count for _, count in calls} == {BRANCHES * len(COMPUTED)}
    session.remove()
    assert torch.equal(draw(name, pipe), full)


def test_a_quantised_load_of_the_same_model_follows_the_plan(tmp_path: Path) -> None:
    """How weights are stored is no other architecture; a network of other sizes is."""
    quantization = pytest.importorskip("torchao.quantization")
    name = "FLUX.1"
    pipe = PIPELINES[name].build()
    pipe.transformer.save_pretrained(tmp_path)
    how = {"quantization_config": TorchAoConfig(quantization.Int8WeightOnlyConfig()), "torch_dtype": torch.float32}
    pipe.transformer = FluxTransformer2DModel.from_pretrained(tmp_path, **how)
    assert precision_of(pipe.transformer) == "torchao: int8, float32"
    with apply_plan(pipe, plan_of(name), on_mismatch="error") as session:
        draw(name, pipe)
        assert session.report().computed == len(COMPUTED)
    pipe.transformer = FluxTransformer2DModel.from_config(pipe.transformer.config, num_layers=1)
    with pytest.raises(PlanMismatchError, match="another configuration"):
        apply_plan(pipe, plan_of(name))


@ORDERS
def test_weights_stored_in_eight_bits_and_cast_for_each_layer(order: str) -> None:
    name = "FLUX.1"

    def prepare(pipe: Any) -> None:
        pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)

    pipe = PIPELINES[name].build()
    prepare(pipe)
    full = draw(name, pipe)
    with apply_plan(pipe, plan_of(name), on_mismatch="error"):
        expected = draw(name, pipe)
    assert 0 < (expected - planned(name)).norm() < 0.2 * planned(name).norm()
    pipe = PIPELINES[name].build()
    session = in_order(pipe, plan_of(name), prepare, order)
    with counted_blocks(pipe) as calls:
        assert torch.equal(draw(name, pipe), expected)
    assert {count for _, count in calls} == {BRANCHES * len(COMPUTED)}
    session.remove()
    assert torch.equal(draw(name, pipe), full)


# Everything at once, in the order that docs/ecosystem.md recommends


def test_adapted_quantised_planned_offloaded_and_compiled() -> None:
    name = "FLUX.1"
    pipe = PIPELINES[name].build()
    add_lora(name, pipe)
    quantise(pipe, lora=True)
    full = draw(name, pipe)
    with apply_plan(pipe, plan_of(name), on_mismatch="error"):
        expected = draw(name, pipe)
    session = apply_plan(pipe, plan_of(name), on_mismatch="error")
    offload_whole_models(pipe)
    with fresh_dynamo():
        compile_blocks(pipe)
        for _ in range(2):
            torch.testing.assert_close(draw(name, pipe), expected, rtol=1e-4, atol=1e-4)
            assert session.report().computed == len(COMPUTED)
        session.remove()
        torch.testing.assert_close(draw(name, pipe), full, rtol=1e-4, atol=1e-4)


# Data parallelism and copies

FLUX = MODELS["FluxTransformer2DModel"]


@torch.no_grad()
def drive(network: nn.Module) -> Tensor:
    """The outputs of one run of a FLUX network without a pipeline."""
    return torch.stack([network(**call)[0] for call in run_of(FLUX)])


def network_plan(*computed: int) -> Plan:
    network = FLUX.build()
    return hand_plan(network, parse_point("trunk"), lambda: drive(network), lambda _: computed or COMPUTED)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("given", ["the wrapper", "the network"])
def test_a_network_inside_data_parallelism_follows_a_plan(given: str) -> None:
    network = FLUX.build()
    full = drive(network)
    with apply_plan(network, network_plan(), on_mismatch="error"):
        expected = drive(network)
    wrapper = nn.parallel.DistributedDataParallel(network)
    with apply_plan(wrapper if given == "the wrapper" else network, network_plan(), on_mismatch="error") as session:
        with counted_blocks(network) as calls:
            assert torch.equal(drive(wrapper), expected)
        assert {count for _, count in calls} == {len(COMPUTED)}
        assert session.report().computed == len(COMPUTED)
    assert torch.equal(drive(wrapper), full)
    with apply_plan(wrapper, network_plan(*range(STEPS)), on_mismatch="error"):
        assert torch.equal(drive(wrapper), full)


def saved_and_loaded(network: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = pytest.mark.parametrize(
    "copied_by",
    [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network)), saved_and_loaded],  # noqa: S301
    ids=["copy.deepcopy", "pickle", "torch.save"],
)


@COPIES
def test_a_copied_network_is_its_own(copied_by: Callable[[Any], Any]) -> None:
    network = FLUX.build()
    full = drive(network)
    with apply_plan(network, network_plan(), on_mismatch="error") as session:
        expected = drive(network)
        copied = copied_by(network)
        assert torch.equal(drive(copied), full)
        with torch.no_grad():
            copied.get_parameter("proj_out.weight").mul_(2.0)
        changed = drive(copied)
        assert not torch.equal(changed, full)
        assert torch.equal(drive(network), expected)
        with apply_plan(copied, network_plan(), on_mismatch="error") as own:
            with counted_blocks(network) as theirs, counted_blocks(copied) as calls:
                assert not torch.equal(drive(copied), changed)
            assert {count for _, count in calls} == {len(COMPUTED)}
            assert {count for _, count in theirs} == {0}
            assert own.report().computed == len(COMPUTED)
        assert torch.equal(drive(copied), changed)
        assert torch.equal(drive(network), expected)
        assert session.report().computed == len(COMPUTED)
    assert torch.equal(drive(network), full)


def test_a_copied_pipeline_follows_no_plan() -> None:
    pipe = PIPELINES["FLUX.1"].build()
    with apply_plan(pipe, plan_of("FLUX.1"), on_mismatch="error"):
        copied = copy.deepcopy(pipe)
        assert torch.equal(draw("FLUX.1", copied), plain("FLUX.1"))
        assert torch.equal(draw("FLUX.1", pipe), planned("FLUX.1"))


def test_a_network_with_a_plan_is_freed_with_its_pipeline() -> None:
    pipe = PIPELINES["FLUX.1"].build()
    session = apply_plan(pipe, plan_of("FLUX.1"), on_mismatch="error")
    draw("FLUX.1", pipe)
    network = weakref.ref(pipe.transformer)
    del pipe
    gc.collect()
    assert network() is None
    assert session.report().steps == 0
    session.remove()


# diffusers' own caches


def cache_config() -> Any:
    from diffusers import FirstBlockCacheConfig

    return FirstBlockCacheConfig(threshold=100.0)


def test_a_plan_is_refused_over_a_diffusers_cache() -> None:
    pipe = PIPELINES["FLUX.1"].build()
    pipe.transformer.enable_cache(cache_config())
    with pytest.raises(AttachError, match="disable_cache"):
        apply_plan(pipe, plan_of("FLUX.1"))
    pipe.transformer.disable_cache()
    with apply_plan(pipe, plan_of("FLUX.1"), on_mismatch="error"):
        assert torch.equal(draw("FLUX.1", pipe), planned("FLUX.1"))


def test_a_plan_is_refused_over_the_hooks_of_a_diffusers_cache() -> None:
    from diffusers.hooks import apply_first_block_cache

    pipe = PIPELINES["FLUX.1"].build()
    apply_first_block_cache(pipe.transformer, cache_config())
    with pytest.raises(AttachError):
        apply_plan(pipe, plan_of("FLUX.1"))


def test_a_plan_is_refused_over_cache_dit() -> None:
    pipe = PIPELINES["FLUX.1"].build()
    pipe.transformer._is_cached = True  # its mark; what it does to the class of a pipeline would outlive this test
    with pytest.raises(AttachError, match="cache-dit enabled; call its disable_cache"):
        apply_plan(pipe, plan_of("FLUX.1"))


def test_a_diffusers_cache_is_refused_over_a_plan() -> None:
    pipe = PIPELINES["FLUX.1"].build()
    with apply_plan(pipe, plan_of("FLUX.1"), on_mismatch="error"), pytest.raises(AttachError):  # noqa: PT012
        pipe.transformer.enable_cache(cache_config())
        draw("FLUX.1", pipe)


def test_a_diffusers_cache_over_a_plan_leaves_with_disable_cache() -> None:
    pipe = PIPELINES["FLUX.1"].build()
    session = apply_plan(pipe, plan_of("FLUX.1"), on_mismatch="error")
    try:
        pipe.transformer.enable_cache(cache_config())
        draw("FLUX.1", pipe)
    except AttachError:
        pass
    if pipe.transformer.is_cache_enabled:
        pipe.transformer.disable_cache()
    assert torch.equal(draw("FLUX.1", pipe), planned("FLUX.1"))
    session.remove()
    assert torch.equal(draw("FLUX.1", pipe), plain("FLUX.1"))


# One network, several pipelines


def test_two_pipelines_that_share_a_network_share_its_plan() -> None:
    from diffusers import FluxImg2ImgPipeline

    text, image = "FLUX.1", "FLUX.1 image to image"
    plan = merge_plans([plan_of(text), plan_of(image, 0, 2)], "both")
    image_steps = PIPELINES[image].runs_steps(STEPS)
    first = PIPELINES[text].build()
    second = FluxImg2ImgPipeline.from_pipe(first)
    second.set_progress_bar_config(disable=True)
    assert second.transformer is first.transformer
    full = draw(image, second)
    alone = PIPELINES[image].build()
    alone.transformer, alone.vae = copy.deepcopy(first.transformer), first.vae
    with apply_plan(alone, plan, on_mismatch="error"):
        expected = draw(image, alone)
    with apply_plan(first, plan, on_mismatch="error") as session:
        with pytest.raises(AttachError, match="a plan applied already"):
            apply_plan(second, plan)
        for _ in range(2):
            assert torch.equal(draw(text, first), planned(text))
            assert session.report().steps == STEPS
            assert torch.equal(draw(image, second), expected)
            assert session.report().steps == image_steps
            assert session.report().computed == 2
    assert torch.equal(draw(image, second), full)
    assert torch.equal(draw(text, first), plain(text))


# Outputs in memory that the next call overwrites


class StaticOutput(nn.Module):
    """Hands out its result in one buffer for all calls, as a CUDA graph does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.kept: list[Tensor] = []
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        parts = output if isinstance(output, tuple) else (output,)
        if not self.kept:
            self.kept = [torch.empty_like(part) for part in parts]
        for buffer, part in zip(self.kept, parts, strict=True):
            buffer.copy_(part)
        self.calls += 1
        return tuple(self.kept) if isinstance(output, tuple) else self.kept[0]


@pytest.mark.parametrize(
    ("point", "path"), [("trunk", "single_transformer_blocks.1"), ("trunk", "proj_out"), ("output", "proj_out")]
)
def test_features_are_copied_before_the_next_call_overwrites_them(point: str, path: str) -> None:
    """Without guidance: there the pipeline itself would find one branch's output overwritten by the other's."""
    pipe = tiny.pipeline()
    full = emoji(pipe)
    plan = make_plan(pipe.transformer, point=point)
    assert any(len(taps.history) > 1 for taps in plan.section.taps().values())
    with apply_plan(pipe, plan, on_mismatch="error"):
        expected = emoji(pipe)
    static = StaticOutput(pipe.transformer.get_submodule(path))
    pipe.transformer.set_submodule(path, static)
    with apply_plan(pipe, plan, on_mismatch="error"):
        assert torch.equal(emoji(pipe), expected)
        assert torch.equal(emoji(pipe), expected)
    runs_when_predicted = EMOJI_STEPS if path == "proj_out" and point == "trunk" else 4
    assert static.calls == 2 * runs_when_predicted
    assert torch.equal(emoji(pipe), full)

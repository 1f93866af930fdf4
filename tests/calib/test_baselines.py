"""Every method acts, is put on as its own project means it, and leaves the pipeline as it was."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor, nn

from hyca_calib.baselines import Family, Settings, Setup, families, layer_reuse
from hyca_calib.baselines.cache_dit import dual_block_families
from hyca_calib.baselines.caches import diffusers_families
from hyca_calib.baselines.dicache import dicache_families
from hyca_calib.baselines.foreign_caches import cacheable, cached, untouched
from hyca_calib.baselines.full_run import magnitude_ratios, observe
from hyca_calib.baselines.layer_reuse import fora_family, layer_changes, reused, smooth_family, smooth_schedule
from hyca_calib.baselines.noise_levels import Spacing
from hyca_calib.baselines.samplers import DPM, HEUN, OWN, UNIPC, sampled_by, sampler_families, samplers
from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.pipelines.rollout import sample_images
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import SampledRun, run_untimed
from hyca_calib.quality.run_flops import run_flops
from studies.training.glyphs.train import build_scheduler

STEPS = 12
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers under numpy 2
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),  # diffusers' FasterCache
]


KINDS: dict[str, tuple[Callable[[], Any], Callable[[], tuple[dict[str, Any], ...]]]] = {
    "flux": (tiny.pipeline, tiny.prompts),
    "dit": (tiny.glyphs, lambda: demo_prompts("demo-class")),
    "wan": (tiny.motion, tiny.prompts),
}


class Bench:
    """A tiny model with its full run; what calibrations find is kept as JSON."""

    def __init__(self, kind: str) -> None:
        make, prompts = KINDS[kind]
        self.kind, self.pipe = kind, make()
        self.pipe.set_progress_bar_config(disable=True)
        self.workload = Workload(prompts(), num_samples=14, num_steps=STEPS, seed=3)
        self.jobs = self.workload.of("select")
        self.known: dict[str, str] = {}
        self.setup = Setup(self.workload.of("fit"), STEPS, self.recall, lambda: pytest.fail("no trace is needed"))
        self.full = self.run(nullcontext, STEPS)
        self.families = {
            family.name: family
            for made in (
                sampler_families(self.pipe, self.setup),
                diffusers_families(self.pipe, self.setup),
                [fora_family(STEPS), smooth_family(self.setup), *dicache_families(self.pipe, self.setup)],
                dual_block_families(self.pipe, self.setup),
            )
            for family in made
        }

    def recall(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.known:
            self.known[name] = json.dumps(make())
        return json.loads(self.known[name])

    def run(self, method: Callable[[], Any], steps: int, batch: int = 4) -> SampledRun:
        return run_untimed(self.pipe, self.jobs, steps, batch, method)

    def figures(self, family: Family, settings: Settings) -> tuple[float, float]:
        """FLOPs ratio and mean dB."""
        baseline = family.baseline(settings)
        run = self.run(lambda: baseline.applied(self.pipe), baseline.steps, baseline.batch(4))
        agreement = run.fidelity_to(self.full).agreement_db
        return self.full.flops.networks / run.flops.networks, float(np.mean(agreement))


@pytest.fixture(scope="module", params=list(KINDS))
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


@pytest.fixture(scope="module")
def of_flux() -> Bench:
    return Bench("flux")


@pytest.fixture(scope="module")
def of_dit() -> Bench:
    return Bench("dit")


def tree(pipe: Any) -> list[Any]:
    """Names in order, classes, own forwards and hooks of all modules, and what the pipeline's class defines."""
    modules = [
        (name, type(m), tuple(m._modules), sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in pipe.transformer.named_modules()
    ]
    return [*modules, dict(vars(type(pipe))), type(pipe.scheduler)]


SETTINGS: dict[str, Settings] = {
    OWN: {"calls": 5, "start": 2, "end": 1.0},
    DPM: {"calls": 5, "start": 0, "end": 1.0},
    UNIPC: {"calls": 5, "start": 2, "end": 0.6},
    HEUN: {"calls": 6, "start": 0, "end": 1.0},
    "TaylorSeer": {"way": "last block", "N": 4, "O": 1, "W": 3},
    "FirstBlockCache": {"threshold": 1.2},
    "MagCache": {"threshold": 4.0, "K": 14, "R": 0.02},
    "SeaCache": {"threshold": 4.0, "O": 1, "W": 1, "K": 5, "power": 2.0},
    "PyramidAttentionBroadcast": {"N": 3, "W": 1, "cross": 1},
    "FasterCache": {"N": 3, "W": 1, "weight": 0.5, "guidance": 1},
    "FORA": {"N": 3},
    "SmoothCache": {"threshold": 1.0, "J": 3},
    "DiCache": {"delta": 1.0, "m": 1, "rho": 0.2, "gamma": 1.5, "last": 1},
    "DiCache, not aligned": {"delta": 1.0, "m": 1, "rho": 0.2, "gamma": 1.0, "last": 1},
}
"""One of every family that spares something on random weights."""
DUAL: Settings = {"R": 1.0, "W": 3, "F": 1, "B": 0, "MC": STEPS, "O": 1, "H": 6, "N": 3, "mask": "ultra"}
"""Of every family of DBCache, what it has of these."""


def chosen(family: Family) -> Settings:
    return SETTINGS.get(family.name) or {axis.name: DUAL[axis.name] for axis in family.axes}


class TestFamilies:
    def test_each_acts_in_any_order_and_leaves_no_trace(self, bench: Bench) -> None:
        """One by one in two opposite orders: after each the tree is as before, in the end the full run, too."""
        pytest.importorskip("cache_dit")
        before, found = tree(bench.pipe), []
        for names in (list(bench.families), list(bench.families)[::-1]):
            figures = {}
            for name in names:
                figures[name] = bench.figures(bench.families[name], chosen(bench.families[name]))
                assert tree(bench.pipe) == before, name
            found.append(figures)
            again = bench.run(nullcontext, STEPS)
            assert torch.equal(again.images, bench.full.images)
            assert torch.equal(again.latents, bench.full.latents)
        assert found[0] == found[1]
        for name, (ratio, db) in found[0].items():
            assert ratio > 1.05, name
            assert 8 < db < 150, name

    def test_settings_are_few_at_first_and_on_the_ladders(self, bench: Bench) -> None:
        for family in bench.families.values():
            first = list(family.first())
            assert 0 < len(first) <= 14, family.name
            assert not family.refused
            assert len({json.dumps(s) for s in first}) == len(first)

    @pytest.mark.parametrize("steps", [4, 5, 8, 50])
    def test_ladders_suit_runs_of_few_steps(self, of_flux: Bench, steps: int) -> None:
        """Distilled models have 4: what is tried first is on every ladder, and so are its neighbours."""
        setup = Setup(of_flux.jobs[:1], steps, lambda name, make: make(), lambda: pytest.fail("no trace is needed"))
        for family in families(of_flux.pipe, setup):
            for axis in family.axes:
                rungs = list(axis.ladder)
                assert len(set(rungs)) == len(rungs), (family.name, axis.name)
                assert isinstance(rungs[0], str) or rungs == sorted(rungs), (family.name, axis.name)
            for settings in family.first():
                assert all(settings[axis.name] in axis.ladder for axis in family.axes)
                assert all(family.allows(near) for way in family.ways(settings) for near in way)

    def test_another_pipeline_of_the_model_will_do(self, bench: Bench) -> None:
        """Settings are for the model, not for the object that the families were made with."""
        family = bench.families["FirstBlockCache"]
        other = copy.deepcopy(bench.pipe)
        baseline = family.baseline(chosen(family))
        mine = bench.run(lambda: baseline.applied(bench.pipe), STEPS)
        theirs = run_untimed(other, bench.jobs, STEPS, 4, lambda: baseline.applied(other))
        assert torch.equal(mine.images, theirs.images)

    def test_settings_that_spare_nothing_are_the_full_run(self, bench: Bench) -> None:
        pytest.importorskip("cache_dit")
        timid: dict[str, Settings] = {
            "FirstBlockCache": {"threshold": 0.0},
            "SeaCache": {**SETTINGS["SeaCache"], "threshold": 0.0},
            "MagCache": {"threshold": 0.0, "K": 3, "R": 0.2},
            "SmoothCache": {"threshold": 0.0, "J": 3},
            "DiCache": {**SETTINGS["DiCache"], "delta": 0.0},
            "PyramidAttentionBroadcast": {"N": 3, "W": STEPS, "cross": 1},
            "FasterCache": {**SETTINGS["FasterCache"], "W": STEPS},
            "DBCache": {**chosen(bench.families["DBCache"]), "R": 0.0},
            "DBCache + TaylorSeer": {**chosen(bench.families["DBCache + TaylorSeer"]), "R": 0.0},
        }
        for name, settings in timid.items():
            baseline = bench.families[name].baseline(settings)
            run = bench.run(partial(baseline.applied, bench.pipe), STEPS)
            assert (run.images - bench.full.images).abs().max() < 1e-4, name

    def test_facts_of_a_full_run(self, bench: Bench) -> None:
        facts = observe(bench.pipe, bench.setup)
        assert (facts.calls, facts.batch) == {"flux": (1, 1), "dit": (1, 2), "wan": (2, 1)}[bench.kind]
        assert len(facts.times) == len(facts.timesteps) == STEPS
        assert facts.times[0] * facts.unit == pytest.approx(facts.timesteps[0], rel=1e-3)
        assert 900 < facts.times[0] * facts.unit <= 1000


class TestUntouched:
    def test_what_is_done_is_undone(self, of_flux: Bench) -> None:
        pipe, before = of_flux.pipe, tree(of_flux.pipe)
        network = pipe.transformer
        first = network.transformer_blocks[0]

        def nothing(self: Any) -> None:
            """Instead of a call."""

        with untouched(pipe):
            blocks = network.transformer_blocks
            del network.transformer_blocks
            network.transformer_blocks = blocks
            network.extra = nn.Linear(2, 2)
            first.forward = first.forward
            first.register_forward_hook(lambda *_: None)
            network.__class__ = type("Other", (type(network),), {})
            type(pipe).brand_new = 1
            type(pipe).__call__ = nothing
            pipe.left_behind = 1
            assert tree(pipe) != before
        assert tree(pipe) == before
        assert not hasattr(pipe, "left_behind")

    def test_of_a_method_that_raises_too(self, of_flux: Bench) -> None:
        before = tree(of_flux.pipe)

        def fail() -> None:
            with untouched(of_flux.pipe):
                of_flux.pipe.transformer.extra = nn.Linear(2, 2)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert tree(of_flux.pipe) == before

    def test_cache_dit_alone_changes_the_order_of_blocks(self) -> None:
        """Why `untouched` is needed; if this fails, cache-dit was mended."""
        pytest.importorskip("cache_dit")
        from hyca_calib.baselines.cache_dit import adapter_by_hand, carriers, package

        dit, pipe = package(), tiny.pipeline()
        before = list(pipe.transformer._modules)
        adapter = adapter_by_hand(carriers(pipe.transformer)[0], pipe)
        dit.enable_cache(adapter, cache_config=dit.DBCacheConfig(num_inference_steps=2, Fn_compute_blocks=1))
        pipe("red cat", num_inference_steps=2, output_type="latent")
        dit.disable_cache(adapter)
        assert list(pipe.transformer._modules) != before


class TestCaches:
    def test_lite_by_name_is_lite_mode(self, of_flux: Bench) -> None:
        baseline = of_flux.families["TaylorSeer"].baseline({"way": "lite", "N": 4, "O": 1, "W": 3})
        found = of_flux.run(lambda: baseline.applied(of_flux.pipe), STEPS)
        told = {"cache_interval": 4, "disable_cache_before_step": 3, "taylor_factors_dtype": torch.float32}
        lite = partial(cached, of_flux.pipe, "TaylorSeerCacheConfig", **told, use_lite_mode=True)
        expected = of_flux.run(lite, STEPS)
        assert torch.equal(found.images, expected.images)

    def test_calls_are_told_step_and_noise_level(self, bench: Bench) -> None:
        """As SeaCache needs them; of the diffusion the level is that of the flow with the same ratio."""
        told: list[tuple[int, float, int]] = []

        def hear(transformer: Any) -> None:
            inner = transformer.cache_context

            @contextmanager
            def cache_context(name: str, **fields: Any) -> Iterator[None]:
                told.append((fields["step_index"], fields["sigma"], fields["num_inference_steps"]))
                with inner(name, **fields):
                    yield

            transformer.cache_context = cache_context

        with cacheable(bench.pipe) as transformer:
            hear(transformer)
            sample_images(bench.pipe, bench.jobs[:1], STEPS, 1)
        steps = [step for step in range(STEPS) for _ in range(2 if bench.kind == "wan" else 1)]
        assert [step for step, _, _ in told] == steps
        assert {count for _, _, count in told} == {STEPS}
        sigmas = [sigma for _, sigma, _ in told]
        assert sigmas == sorted(sigmas, reverse=True)
        assert 0 < sigmas[-1] < 0.5 < 0.98 < sigmas[0] <= 1

    def test_branches_of_guidance_keep_attention_of_their_own(self) -> None:
        """Of Wan, whose branches are calls one after the other: each has what it computed three steps apart."""
        bench = Bench("wan")
        family = bench.families["PyramidAttentionBroadcast"]

        def heard() -> dict[str, list[Tensor]]:
            found: dict[str, list[Tensor]] = {"cond": [], "uncond": []}
            with family.baseline(chosen(family)).applied(bench.pipe):
                attention = bench.pipe.transformer.blocks[1].attn1  # the first does not see the prompt
                own, calls = attention.forward, [0]

                def forward(*args: Any, **kwargs: Any) -> Any:
                    output = own(*args, **kwargs)
                    found["uncond" if calls[0] % 2 else "cond"].append(output)
                    calls[0] += 1
                    return output

                attention.forward = forward
                sample_images(bench.pipe, bench.jobs[:1], STEPS, 1)
                attention.forward = own
            return found

        kept = heard()
        for branch in kept.values():
            same = [torch.equal(a, b) for a, b in itertools.pairwise(branch)]
            assert same == [(step + 1) % 3 != 0 for step in range(STEPS - 1)]
        assert not torch.equal(kept["cond"][3], kept["uncond"][3])

    def test_guidance_is_forecast_from_the_conditional_half(self, of_dit: Bench) -> None:
        """DiT has the conditional half first: that one is computed on every step, the other on every third."""
        family = of_dit.families["FasterCache"]
        settings = {"N": 2, "W": 1, "weight": 0.5, "guidance": 3}
        ratio, db = of_dit.figures(family, settings)
        assert ratio > of_dit.figures(family, {**settings, "guidance": 1})[0] + 0.2
        assert db > 15
        labels: list[Tensor] = []
        with family.baseline(settings).applied(of_dit.pipe):
            embed = of_dit.pipe.transformer.transformer_blocks[0].norm1.emb.class_embedder
            hearing = embed.register_forward_pre_hook(lambda module, args: labels.append(args[0]))
            sample_images(of_dit.pipe, of_dit.jobs[:1], STEPS, 1)
            hearing.remove()
        free = len(of_dit.pipe.config.classes)
        seen = [tuple(int(i) == free for i in label) for label in labels]
        assert set(seen) == {(False,), (True, False)}, "upstream wants the unconditional half first"

    def test_dual_block_cache_on_dit_is_its_own_adapter(self, of_dit: Bench) -> None:
        """A DiT looks into its first block, which cache-dit replaces: its own adapter knows."""
        pytest.importorskip("cache_dit")
        ratio, db = of_dit.figures(of_dit.families["DBCache"], chosen(of_dit.families["DBCache"]))
        assert ratio > 1.3
        assert db > 15

    def test_fora_on_every_step_is_the_full_run(self, bench: Bench) -> None:
        run = bench.run(lambda: reused(bench.pipe, lambda kind: [True] * STEPS), STEPS)
        assert torch.equal(run.images, bench.full.images)

    def test_what_projects_repeated_layers_repeats(self, of_flux: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """FLUX's single blocks project attention and MLP together: the same pictures for less."""
        runs = {"attn": 3, "proj_mlp": 2, "ff": 3, "ff_context": 3}
        table = {kind: [step % every == 0 for step in range(STEPS)] for kind, every in runs.items()}
        found = of_flux.run(lambda: reused(of_flux.pipe, table.__getitem__), STEPS)
        monkeypatch.setattr(layer_reuse, "FUSED", "none")
        dearer = of_flux.run(lambda: reused(of_flux.pipe, table.__getitem__), STEPS)
        assert torch.equal(found.images, dearer.images)
        assert found.flops.networks < 0.97 * dearer.flops.networks

    def test_changes_of_layers(self, of_dit: Bench) -> None:
        """Against the definition, on results of a full run; DiT has one attention and one feed-forward a block."""
        jobs, blocks = of_dit.workload.of("fit")[:2], of_dit.pipe.transformer.transformer_blocks
        kept: list[list[Tensor]] = [[] for _ in blocks]
        hooks = [
            block.ff.register_forward_hook(lambda module, args, output, to=to: to.append(output))
            for block, to in zip(blocks, kept, strict=True)
        ]
        sample_images(of_dit.pipe, jobs, STEPS, 2)
        for hook in hooks:
            hook.remove()
        found = layer_changes(of_dit.pipe, jobs, STEPS, 3)
        assert set(found) == {"attn1", "ff"}
        expected = sum((of[4] - of[6]).abs().sum() / of[4].abs().sum() for of in kept) / len(kept)
        assert found["ff"][4, 1].item() == pytest.approx(float(expected), rel=1e-4)
        assert found["ff"][STEPS - 2].isinf().tolist() == [False, True, True]

    def test_nothing_is_known_beyond_the_end_of_a_short_run(self, of_dit: Bench) -> None:
        """Looking further ahead than the run is long: what lies beyond would else pass for no change at all."""
        found = layer_changes(of_dit.pipe, of_dit.workload.of("fit")[:1], STEPS, STEPS + 4)
        for changes in found.values():
            assert changes.isinf().sum(dim=1).tolist() == [5 + step for step in range(STEPS)]
            assert changes.isfinite().sum() == STEPS * (STEPS - 1) / 2

    def test_smooth_schedule(self) -> None:
        """The largest skip whose far end is near enough; the change in between is not looked at."""
        far, near = 1.0, 0.1
        changes = torch.tensor(
            [[far, near], [far, far], [near, near], [near, far], [far, far], [near, far], [far, far]]
        )
        assert smooth_schedule(changes, 0.5) == [True, False, False, True, False, True, True]
        assert smooth_schedule(changes, 0.0) == [True] * 7

    def test_magnitude_ratios(self, bench: Bench) -> None:
        ratios = magnitude_ratios(bench.pipe, bench.workload.of("fit")[:2], STEPS)
        assert len(ratios) == STEPS
        assert ratios[0] == 1
        assert all(0.2 < ratio < 5 for ratio in ratios)
        assert len(set(ratios)) > 2

    def test_guidance_branches_are_not_mixed(self) -> None:
        jobs = Workload(({"prompt": "red cat", "true_cfg_scale": 3.0},) * 3, 7, STEPS).of("fit")[:1]
        assert len(magnitude_ratios(tiny.pipeline(), jobs, STEPS)) == STEPS


def db(images: Tensor, reference: Tensor) -> float:
    return float(-10 * (images - reference).square().mean().log10())


def draw(pipe: Any, workload: Workload, steps: int) -> Tensor:
    return sample_images(pipe, workload.of("select"), steps, 4)[0]


def converged(pipe: Any, workload: Workload, calls: int) -> dict[str, float]:
    """PSNR of every sampler on the model's own noise levels to the pipeline's own, at so many network calls."""
    own = draw(pipe, workload, calls)
    setup = Setup(workload.of("fit"), workload.num_steps, lambda name, make: make(), lambda: pytest.fail("no trace"))
    found = {}
    for sampler in samplers(pipe, setup):
        with sampled_by(pipe, sampler.own):
            found[sampler.family] = db(draw(pipe, workload, sampler.steps(calls - 1)), own)
    return found


class TestSamplers:
    @pytest.mark.parametrize("kind", ["flux", "dit"])
    def test_they_solve_the_same_equation(self, kind: str) -> None:
        bench = Bench(kind)
        found = converged(bench.pipe, bench.workload, 200)
        assert set(found) == {OWN, DPM, UNIPC, HEUN}
        assert min(found.values()) > 40, found

    @pytest.mark.slow
    @pytest.mark.parametrize(("model", "calls"), [("demo", 100), ("demo-class", 200)])
    def test_they_draw_what_the_models_draw(self, model: str, calls: int) -> None:
        pipe = demo_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        found = converged(pipe, Workload(demo_prompts(model), num_samples=7), calls)
        assert min(found.values()) > 45, found

    def test_network_calls_are_as_announced(self, bench: Bench) -> None:
        job = bench.jobs[:1]

        def sample(steps: int, drawn: list[Tensor]) -> None:
            drawn.append(sample_images(bench.pipe, job, steps, 1)[0])

        one = run_flops(bench.pipe, lambda: sample_images(bench.pipe, job, 1, 1)).networks
        before = type(bench.pipe.scheduler)
        for name in (OWN, DPM, UNIPC, HEUN):
            family = bench.families[name]
            for settings in family.first():
                baseline = family.baseline(settings)
                with baseline.applied(bench.pipe):
                    drawn: list[Tensor] = []
                    spent = run_flops(bench.pipe, partial(sample, baseline.steps, drawn)).networks
                assert spent / one == settings["calls"], baseline.name
                assert drawn[0].isfinite().all(), baseline.name
        assert type(bench.pipe.scheduler) is before

    def test_many_calls_far_below_the_last_level(self, of_dit: Bench) -> None:
        """Levels that round to the same whole timestep would divide by nothing."""
        for name in (OWN, DPM, UNIPC, HEUN):
            calls = of_dit.families[name].axes[0].ladder[-1]
            ratio, db = of_dit.figures(of_dit.families[name], {"calls": calls, "start": 1, "end": 0.1})
            assert ratio == pytest.approx(STEPS / int(calls), rel=0.01)
            assert db > 12, name

    def test_euler_in_another_guise_is_ddim(self, of_dit: Bench) -> None:
        """Its latents are 20,000 times larger at the start: the pipeline scales them as the sampler says."""
        pipe = of_dit.pipe
        own, expected = pipe.scheduler, draw(pipe, of_dit.workload, 20)
        pipe.scheduler = EulerDiscreteScheduler.from_config(own.config)
        try:
            found = draw(pipe, of_dit.workload, 20)
        finally:
            pipe.scheduler = own
        assert db(found, expected) > 40

    def test_calls_reach_from_a_twelfth_to_nine_tenths(self) -> None:
        pipe = tiny.pipeline()
        setup = Setup(
            Workload(tiny.prompts(), 14).of("fit"), 50, lambda name, make: make(), lambda: pytest.fail("no trace")
        )
        calls = [int(n) for n in sampler_families(pipe, setup)[0].axes[0].ladder]
        assert calls[0] <= 4
        assert calls[-1] >= 40
        assert all(b - a == 1 or b / a < 1.2 for a, b in itertools.pairwise(calls))


class TestSpacing:
    def test_flow_levels(self) -> None:
        own = np.linspace(1, 0.02, 50)
        levels = Spacing(3).flow(own.tolist())(8)
        assert levels[0] == 1
        np.testing.assert_allclose(levels[[1, -1]], own[[3, -1]])
        np.testing.assert_allclose(np.diff(np.log(levels[1:] / (1 - levels[1:])), 2), 0, atol=1e-9)
        halved = Spacing(3, 0.5).flow(own.tolist())(8)
        np.testing.assert_allclose(halved[-1] / (1 - halved[-1]), 0.5 * own[-1] / (1 - own[-1]))

    def test_timesteps(self) -> None:
        scheduler = build_scheduler()
        scheduler.set_timesteps(50)
        own = scheduler.timesteps.tolist()
        levels = Spacing(1).timesteps(scheduler)(10)
        assert levels[[0, 1, -1]].tolist() == [own[0], own[1], own[-1]]
        assert (np.diff(levels) < 0).all()
        assert Spacing(1, 0.5).timesteps(scheduler)(10)[-1] < own[-1]
        crowded = Spacing(1, 0.1).timesteps(scheduler)(45)
        assert (np.diff(crowded) <= -1).all()
        assert crowded[-1] >= 0
        assert crowded[0] == own[0]

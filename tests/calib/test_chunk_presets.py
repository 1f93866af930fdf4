"""Plans for videos in chunks: published presets, and sections for the first chunk and for those behind it."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from hyca_calib.commands.asked import Asked
from hyca_calib.commands.chunk_presets import check_keys, keys_of
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.presets import OFFERS
from hyca_calib.commands.searching import report_once, search_plans
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.run_flops import run_flops
from hyca_calib.report import write
from hyca_calib.report.figures import figures_in
from hyca_calib.report.front import write_front
from hyca_calib.search import by_chunk, kept_keys
from hyca_calib.search.assemble import build_section
from hyca_calib.search.by_chunk import parted, shared
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.lineage import LATER
from hyca_calib.search.packcache import keeping
from hyca_calib.search.past_cost import PastCost, told_keys
from hyca_calib.search.problem import Problem
from hyca_calib.search.rows import plan_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.step_caches import search, tries
from hyca_calib.search.step_caches.flowcache import FlowCache
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.errors import AttachError, BudgetError, StudyError, TraceError
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import Schedule
from hyca_runtime.streaming.retention import All, Important, Packed

STEPS, CLIP = 8, 4
POINTS = [parse_point("trunk:residual"), parse_point("output")]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Problem]:
    folder, workload, found = tmp_path_factory.mktemp("traces"), Workload(tiny.prompts(), 7, STEPS), {}
    for which in ("all", "first", "later"):
        where, points = folder / f"{which}.zarr", POINTS if which == "all" else POINTS[:1]
        trace(tiny.stream(), workload, points, where, model_name="tiny:stream", batch=2, tokens=4, chunks=which)
        found[which] = Problem(Trace(where))
    return found


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "SAMPLES", 1)
    for name in ("HALVINGS", "FINE"):
        monkeypatch.setattr(search, name, 1)


def make(problems: list[Problem], folder: Path, budget: str, **options: Any) -> tuple[Plan, dict[str, Any]]:
    """What ``hyca search`` does, and its account."""
    limits, wanted = SearchLimits(**options), Budget.parse(budget)
    maker = OFFERS[limits.preset].prepare(Asked(tiny.stream(), problems, [wanted], limits, folder))
    study = StudyFolder.open(folder / "study", {})
    return maker(wanted, study), study.read_result()


def test_flowcache_meets_a_budget_with_decisions_by_chunk(
    problems: dict[str, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlowCache, "easier", lambda self: (replace(self, warmup=2),))
    plan, account = make([problems["all"]], tmp_path, "2x", preset="flowcache")
    section, job = plan.section, problems["all"].workload.of("select")[0]
    assert section.policy is not None
    assert section.policy.name == "chunk_change"
    assert section.chunks is not None
    assert section.chunks.keys is not None
    assert len(account["contenders"]) == 3, "the residual, the velocity and the increment"
    pipe = tiny.stream()
    with followed(pipe, plan) as session:
        sample_latents(pipe, [job], STEPS, 1)
        report = session.report()
    assert report.steps == CLIP * STEPS
    assert report.flops_ratio is not None
    assert report.flops_ratio > 1.3
    counts = [count.computed for stream, count in report.streams.items() if stream[1] == "cond"]
    assert len(counts) == CLIP
    assert max(counts) <= (section.policy.max_computed or STEPS)
    assert statistics.fmean(counts) < STEPS


def test_every_form_of_reuse_is_of_a_point(problems: dict[str, Problem]) -> None:
    forms = FlowCache.released(problems["all"])
    assert [(str(form.at), bool(form.moves)) for form in forms] == [
        ("trunk:residual", False),
        ("output", False),
        ("output", True),
    ]
    assert [form.warmup for form in forms[0].easier()] == [5, 3, 2, 1]
    moves = problems["all"].trace.sigmas
    assert forms[2].moves == tuple((moves[1:] - moves[:-1]).tolist())


def test_other_step_caches_do_not_know_chunks(problems: dict[str, Problem], tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="take --preset flowcache"):
        make([problems["all"]], tmp_path, "2x", preset="teacache")


def test_what_was_tried_at_a_point_is_of_that_point() -> None:
    """Both forms hold what they forecast; their policies are set alike."""
    inner, outer = FlowCache(at=parse_point("trunk:residual")), FlowCache(at=parse_point("output"))
    assert inner.policy(0.1).spec() == outer.policy(0.1).spec()
    assert inner.forecast_digest != outer.forecast_digest


def test_flowcache_of_another_point(recorded: Trace) -> None:
    with pytest.raises(TraceError, match="reuses trunk:residual or output"):
        FlowCache.released(Problem(recorded))


def test_packcache_keeps_a_share_of_keys(problems: dict[str, Problem], tmp_path: Path) -> None:
    plan, account = make([problems["all"]], tmp_path, "2x", preset="packcache")
    assert plan.section.chunks is not None
    assert isinstance(plan.section.chunks.retention, Packed)
    assert plan.section.chunks.retention.budget == CLIP / 2 - 1
    assert plan.section.schedule.computed_steps == tuple(range(STEPS))
    assert len(account["contenders"]) == 6
    assert 0 < account["decay"] < 2
    best = max(one["psnr_db"] for one in account["contenders"])
    assert plan.section.quality is not None
    assert plan.section.quality.psnr_db == best
    with pytest.raises(BudgetError, match="below 4x"):
        make([problems["all"]], tmp_path / "b", "4x", preset="packcache")
    with pytest.raises(TraceError, match="not of all chunks"):
        make([problems["first"]], tmp_path / "c", "2x", preset="packcache")


def test_quantised_steps_are_refused(problems: dict[str, Problem], tmp_path: Path) -> None:
    limits = SearchLimits(precision="int8")
    with pytest.raises(BudgetError, match="--precision is not for videos in chunks yet"):
        search_plans("2x bitops", [problems["all"].trace.where], limits, tmp_path)


def test_keys_are_said_on_the_command_line() -> None:
    texts = ["packed budget=2 window=4", "important budget=2", "packed budget=2 window=4"]
    found = keys_of(SearchLimits(keys=texts))
    assert found == (Packed(2, 4).spec(), Important(2).spec())
    assert keys_of(SearchLimits(keys=[*map(told_keys, found)])) == found
    assert keys_of(SearchLimits())[0].name == "all"
    for wrong in ("none", "packed budget", "packed budget=0 window=1", "important budget=x"):
        with pytest.raises(StudyError, match="--keys"):
            keys_of(SearchLimits(keys=[wrong]))
    for wrong in ("", "packed budget", "important budget=2 unit=frame"):
        with pytest.raises(StudyError, match="expected a name, perhaps with settings as JSON, such as"):
            keys_of(SearchLimits(keys=[wrong]))
    quoted = keys_of(SearchLimits(keys=['important budget=2 unit="frame"']))
    assert quoted == (Important(2, unit="frame").spec(),)


WAYS = ["all", "packed budget=1 window=2", "important budget=1"]


class TestKeysAndCompute:
    """What is kept of the past and what is computed, under one budget."""

    def test_attention_to_the_past_is_what_runs_count(self, problems: dict[str, Problem]) -> None:
        """FLOPs of two runs differ by the attention that the meter has counted."""
        problem, pipe = problems["all"], tiny.stream()
        counted, metered = list[float](), list[float]()
        for retention in (All(), Packed(1, 2)):
            meter = kept_keys.PastMeter()
            with followed(pipe, Plan(name="x", sections=(keeping(problem, retention),))) as session:
                session.observe(meter)
                flops = run_flops(pipe, lambda: sample_latents(pipe, problem.workload.of("fit")[:1], STEPS, 1))
            counted.append(flops.networks)
            metered.append(sum(meter.flops.values()))
        assert counted[0] > counted[1]
        assert counted[0] - counted[1] == pytest.approx(metered[0] - metered[1])

    def test_what_is_not_attended_to_leaves_room(self, problems: dict[str, Problem]) -> None:
        cost, budget = problems["all"].trace.cost, Budget.parse("4x")
        dear, cheap = (PastCost(flops, 4 * cost.full_flops, 3.0) for flops in (4 * cost.full_flops, 0.0))
        assert PastCost().within(budget, cost, STEPS).share == pytest.approx(0.25)
        steps = [way.within(budget, cost, STEPS).computed_steps(cost, STEPS, 3) for way in (dear, cheap)]
        assert steps == [1, STEPS]
        share = cheap.within(budget, cost, STEPS).share
        assert share == 1.0
        ((problem,),) = kept_keys.with_keys(tiny.stream(), [problems["all"]], [All().spec()], None)
        assert problem.past is not None
        assert problem.past.flops == problem.past.everything > 0
        assert problem.past.chunks == CLIP - 1

    def test_a_search(self, problems: dict[str, Problem], tmp_path: Path) -> None:
        few = {"trials": 1, "confirm": 0.5, "rollouts": 6, "refine": 0.0, "groups": 1, "probes": 0}
        plan, account = make([problems["all"]], tmp_path, "2x", keys=WAYS, **few)
        points = account["points"]
        assert len(points) == len(WAYS)
        chosen = max(points, key=points.__getitem__)
        assert plan.section.chunks is not None
        assert plan.section.chunks.keys is not None
        assert f"'{told_keys(plan.section.chunks.keys)}'" in chosen
        assert plan.provenance["past"]["flops_ratio"] >= 2
        assert account["rollouts"]

    def test_a_bound_of_memory(self, problems: dict[str, Problem], tmp_path: Path) -> None:
        few = {"trials": 1, "confirm": 0.0, "refine": 0.0, "groups": 1, "probes": 0}
        plan, _ = make([problems["all"]], tmp_path, "2x", keys=WAYS[:2], most_keys=2.0, **few)
        assert plan.section.chunks is not None
        assert plan.section.chunks.retention == Packed(1, 2)
        assert plan.provenance["past"]["most_chunks"] <= 2
        with pytest.raises(
            BudgetError, match="--most-keys 1: expected keys of no more chunks of the past, got 'all' 3"
        ):
            make([problems["all"]], tmp_path / "b", "2x", keys=WAYS[:1], most_keys=1.0, **few)

    def test_sections_of_their_own(self, problems: dict[str, Problem], tmp_path: Path) -> None:
        few = {"trials": 1, "confirm": 0.0, "refine": 0.0, "groups": 1, "probes": 0}
        plan, account = make([problems["first"], problems["later"]], tmp_path, "2x", keys=WAYS[:2], **few)
        ways = account["ways"]
        assert {way["keys"] for way in ways} == {*map(told_keys, keys_of(SearchLimits(keys=WAYS[:2])))}
        best = min(ways, key=lambda way: way["log_error"])
        for section in plan.sections:
            assert section.chunks is not None
            assert section.chunks.keys is not None
            assert told_keys(section.chunks.keys) == best["keys"]
        assert plan.provenance["past"]["flops_ratio"] >= 2

    def test_what_cannot_be_asked(self, problems: dict[str, Problem], recorded: Trace) -> None:
        chunks, budget = [problems["all"].trace], [Budget.parse("2x")]
        check_keys(SearchLimits(keys=WAYS), chunks, budget)
        with pytest.raises(StudyError, match="is of no video in chunks; leave it out"):
            check_keys(SearchLimits(keys=WAYS[1:]), [recorded], budget)
        with pytest.raises(StudyError, match="--most-keys 3: the trace is of no video"):
            check_keys(SearchLimits(most_keys=3.0), [recorded], budget)
        with pytest.raises(StudyError, match="'packcache' chooses what is kept for the budget; leave --keys"):
            check_keys(SearchLimits(preset="packcache", keys=WAYS[:1]), chunks, budget)
        with pytest.raises(StudyError, match="'flowcache' takes one way to keep keys"):
            check_keys(SearchLimits(preset="flowcache", keys=WAYS), chunks, budget)
        with pytest.raises(BudgetError, match="expected one of FLOPs"):
            check_keys(SearchLimits(keys=WAYS), chunks, [Budget.parse("3 steps")])


class TestByChunk:
    """Sections of their own for the first chunk and for those behind it."""

    def test_budgets_add_up(self, problems: dict[str, Problem]) -> None:
        both = problems["first"], problems["later"]
        ways = shared(Budget.parse("2x"), both)
        assert len(ways) >= 2
        for lead, rest in ways:
            assert lead.share is not None
            assert rest.share is not None
            assert (lead.share + (CLIP - 1) * rest.share) / CLIP == pytest.approx(0.5)
        with pytest.raises(BudgetError, match="is the most"):
            shared(Budget.parse("50x"), both)

    def test_traces_of_both_are_wanted(self, problems: dict[str, Problem]) -> None:
        first, later, every = (problems[which] for which in ("first", "later", "all"))
        assert parted([later, first]) == (first, later)
        assert parted([every]) is None
        with pytest.raises(TraceError, match="give both"):
            parted([later])

    def test_a_search(self, problems: dict[str, Problem], tmp_path: Path) -> None:
        few = {"trials": 1, "confirm": 0.5, "rollouts": 2, "refine": 5.0, "iterations": 1, "groups": 1}
        plan, account = make([problems["first"], problems["later"]], tmp_path, "2x", **few)
        first, later = plan.sections
        assert (first.from_chunk, later.from_chunk) == (None, 1)
        spent = (len(first.schedule.computed_steps) + 3 * len(later.schedule.computed_steps)) / CLIP
        assert spent <= STEPS / 2
        for account_of in account["chunks"]["refinement"].values():
            assert account_of["iterations"] == 1
        assert first.quality is not None
        assert later.quality == first.quality
        pipe, job = tiny.stream(), problems["all"].workload.of("test")[0]
        with followed(pipe, plan) as session:
            sample_latents(pipe, [job], STEPS, 1)
            counts = [count.computed for stream, count in session.report().streams.items() if stream[1] == "cond"]
        assert counts == [len(first.schedule.computed_steps), *[len(later.schedule.computed_steps)] * 3]

    def test_a_report(self, problems: dict[str, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(write, "WALL_SAMPLES", 1)
        monkeypatch.setattr(by_chunk, "FAVOURS", (1.5,))
        few = {"trials": 1, "confirm": 0.0, "refine": 0.0, "groups": 1, "probes": 0}
        plan, account = make([problems["first"], problems["later"]], tmp_path, "2x", **few)
        study, recorded = StudyFolder(tmp_path / "study"), [problems[which].trace for which in ("later", "first")]
        assert plan.provenance[LATER] == recorded[0].where
        report_once(tiny.stream(), recorded, study)
        page, text = study.report.read_text(), (study.folder / "report.md").read_text()
        first, later = (section.schedule.computed_steps for section in plan.sections)
        assert f"first chunk: {', '.join(map(str, first))} of {STEPS}" in page
        assert f"later chunks: {', '.join(map(str, later))} of {STEPS}" in page
        assert f"{len(first) + 3 * len(later)} of {CLIP * STEPS} chunk-forwards" in text
        assert "How forecasts follow the features: later chunks" in page
        assert "| plan |" in text
        assert "Keys and values, `all`: " in text
        assert f"{account['ways'][0]['first']} and {account['ways'][0]['later']}" in text
        drawn = {path.stem for path in (study.folder / "pictures").glob("*.png")}
        assert drawn >= {"schedule", "errors", "errors-1", "trajectories-1", "wall", "front"}
        figures = figures_in(study.folder)
        assert figures is not None
        assert figures.flops_ratio > 1.5
        front = write_front([(study.plan, plan)], tmp_path).read_text()
        assert f"| {figures.flops_ratio:.2f}x | first chunk: {len(first)} of {STEPS}; later chunks:" in front

    def test_a_differentiable_rollout_is_the_runtime_s(self, problems: dict[str, Problem]) -> None:
        sections = [
            build_section(Candidate(problems[which], Settings(groups=1), Schedule.from_steps(STEPS, computed)))
            for which, computed in (("first", (0, 1, 2, 5)), ("later", (0, 1, 4)))
        ]
        pipe, job = tiny.stream(), problems["all"].workload.of("fit")[0]
        with followed(pipe, Plan(name="both", sections=tuple(sections))):
            expected = sample_latents(pipe, [job], STEPS, 1)
        for refined, other in (sections, sections[::-1]):
            taps = torch.from_numpy(plan_taps(refined)).float().requires_grad_()
            with TapRollout(pipe, refined, False, other_chunks=[other]) as rollout, torch.enable_grad():
                rollout.follow(taps)
                drawn = sample_latents(pipe, [job], STEPS, 1, with_grad=True)
            assert torch.allclose(drawn, expected, atol=1e-5)
            (slope,) = torch.autograd.grad(drawn.square().sum(), taps)
            assert (slope[:, :1].abs().amax((1, 2)) > 0).all(), "every row is used"

    @pytest.mark.parametrize("checkpointed", [False, True])
    def test_gradients_of_a_chunk_are_its_own_forecasts(self, problems: dict[str, Problem], checkpointed: bool) -> None:
        """Of a clip of one chunk they are exact; of more those of each chunk with the others held."""
        section = build_section(Candidate(problems["all"], Settings(groups=1), Schedule.from_steps(STEPS, (0, 1, 4))))
        pipe, job = tiny.stream(), problems["all"].workload.of("fit")[0]
        pipe.to(torch.float64)
        jobs = [replace(job, call={**job.call, "num_frames": 6})]
        start = torch.from_numpy(plan_taps(section))
        way = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def final(taps: torch.Tensor, with_grad: bool) -> torch.Tensor:
            rollout.follow(taps)
            return sample_latents(pipe, jobs, STEPS, 1, with_grad=with_grad).double().square().mean()

        with TapRollout(pipe, section, checkpointed) as rollout:
            taps = start.clone().requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(final(taps, with_grad=True), taps)
            with torch.no_grad():
                ends = [float(final(start + size * way, with_grad=False)) for size in (1e-3, -1e-3)]
        assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float((slope * way).sum()), rel=1e-2)

    def test_what_is_computed_again_is_the_same(self, problems: dict[str, Problem]) -> None:
        section = build_section(Candidate(problems["all"], Settings(groups=1), Schedule.from_steps(STEPS, (0, 1, 4))))
        pipe, job, found = tiny.stream(), problems["all"].workload.of("fit")[0], list[torch.Tensor]()
        for checkpointed in (False, True):
            taps = torch.from_numpy(plan_taps(section)).float().requires_grad_()
            with TapRollout(pipe, section, checkpointed) as rollout, torch.enable_grad():
                rollout.follow(taps)
                drawn = sample_latents(pipe, [job], STEPS, 1, with_grad=True)
                found.extend(torch.autograd.grad(drawn.square().mean(), taps))
        assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-8)

    def test_a_gradient_moves_taps_downhill(self, problems: dict[str, Problem]) -> None:
        problem = replace(problems["all"])
        section = build_section(Candidate(problem, Settings(groups=1), Schedule.from_steps(STEPS, (0, 1, 4))))
        pipe, samples = tiny.stream(), problem.samples("fit")[[0]]
        taps = torch.from_numpy(plan_taps(section)).float().requires_grad_()

        def loss() -> torch.Tensor:
            rollout.follow(taps)
            drawn = sample_latents(pipe, samples.jobs, STEPS, 1, with_grad=True)
            return (drawn - samples.latents).square().mean()

        with TapRollout(pipe, section, False) as rollout, torch.enable_grad():
            before = loss()
            (slope,) = torch.autograd.grad(before, taps)
            with torch.no_grad():
                taps -= 1e-3 * slope / slope.norm()
            assert loss() < before

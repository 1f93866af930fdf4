"""Nothing of the test split reaches a plan, and nothing of the select split what is fitted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import zarr
from storage import record

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import SPLITS, Split, Workload
from hyca_calib.search.assemble import assemble_section, channel_taps, repaid
from hyca_calib.search.candidate import partition
from hyca_calib.search.error_damping import measure_damping, with_damping
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.preconditioner import preconditioned
from hyca_calib.search.presets import PRESETS, choose_once
from hyca_calib.search.problem import Problem
from hyca_calib.search.rows import plan_taps, with_taps
from hyca_calib.search.run import search, search_preset
from hyca_calib.search.settings import Settings
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.taps import fit_solver
from hyca_calib.search.tune import tune
from hyca_calib.trace.merge import merge_traces
from hyca_calib.trace.request import Request
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan
from hyca_runtime.errors import TraceError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Hold

BUDGET = Budget.parse("3x")
FOREVER = 1e12
"""Minutes; the step size of a refinement falls with the share of them that is spent."""
LIMITS = SearchOptions(RolloutLimits(FOREVER, rollouts=5), Refinement(FOREVER, iterations=2, batch=3, evaluations=1))


class Perturbing(EmojiPipeline):
    """Samples of one split are drawn otherwise, and their final latents may be NaN."""

    seeds: frozenset[int] = frozenset()
    broken = False

    def __call__(self, *args: Any, **call: Any) -> Any:
        hit = {generator.initial_seed() for generator in call["generator"]} & self.seeds
        if hit:
            call["prompt"] = ["star star"] * len(call["prompt"])
            call["generator"] = [torch.Generator().manual_seed(g.initial_seed() + 1) for g in call["generator"]]
        found = super().__call__(*args, **call)
        if hit and self.broken:
            found[0][0] = torch.nan
        return found


Perturbing.__name__ = EmojiPipeline.__name__  # a trace says which pipeline made it


def perturbing(workload: Workload, split: Split, broken: bool = False) -> EmojiPipeline:
    """The tiny pipeline, perturbed on `split`."""
    pipe = tiny.pipeline()
    pipe.__class__ = Perturbing
    pipe.seeds, pipe.broken = frozenset(job.seed for job in workload.of(split)), broken
    return pipe


def recorded_at(path: Path, workload: Workload, pipe: EmojiPipeline | None = None, overwrite: bool = False) -> bool:
    return record(path, workload, pipe, batch=2, overwrite=overwrite)


def recorded_anew(path: Path, workload: Workload, pipe: EmojiPipeline) -> Trace:
    recorded_at(path, workload, pipe, overwrite=True)
    return Trace(path)


def told(study: StudyFolder) -> str:
    """The plan but for its seconds, which every trace measures anew."""
    plan = load_plan(study.plan)
    sections = tuple(section.model_copy(update={"timing": None}) for section in plan.sections)
    return plan.model_copy(update={"sections": sections}).model_dump_json()


def plan_of(recorded: Trace, study: Path) -> str:
    """A whole search with all its stages; its limits do not depend on the clock."""
    pipe = tiny.pipeline()
    where = StudyFolder.open(study, {})
    problem = with_damping(pipe, Problem(recorded), where.journal, probes=8)
    candidates = tune(problem, (BUDGET,), Tuning(trials=4, timeout=3600), where.journal, seed=0)[BUDGET]
    search(pipe, [candidates], BUDGET, where, LIMITS)
    return told(where)


def recipe_of(recorded: Trace, study: Path) -> str:
    """The published recipe, which chooses its solvers on one prompt."""
    where = StudyFolder.open(study, {})
    search_preset(tiny.pipeline(), [Problem(recorded)], BUDGET, where, "hyca", "anchored")
    return told(where)


def scramble(path: Path, split: Split, workload: Workload) -> None:
    """Random numbers in all arrays of a split, then the sums anew, as after a repair."""
    rng, root = np.random.default_rng(0), zarr.open_group(path, mode="r+")
    samples = {job.index for job in workload.of(split)}
    commits = [json.loads(p.read_text()) for p in sorted((path / "commits").iterdir())]
    batches = [commit["batch"] for commit in commits if samples & set(commit["samples"])]

    def array(key: str) -> zarr.Array[Any]:
        found = root[key]
        assert isinstance(found, zarr.Array)
        return found

    of = {name: array(f"points/trunk/{name}") for name in ("values", "batch_gram", "batch_gain")}
    of["latents"] = array("latents")
    branches, steps, channels = of["batch_gain"].shape[1:]
    size = branches * steps + 1
    rows, columns = np.triu_indices(size)
    for number in batches:
        features = rng.normal(size=(channels, size, 4 * size)).cumsum(axis=1)
        of["batch_gram"][number] = (features @ features.swapaxes(1, 2))[..., rows, columns]
        of["batch_gain"][number] = rng.uniform(1, 20, (branches, steps, channels))
    for number in samples:
        for name in ("values", "latents"):
            of[name][number] = rng.normal(size=of[name].shape[1:])
    (path / "manifest.json").unlink()
    assert recorded_at(path, workload)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every trace here: a plan names it."""
    return Path(tmp_path_factory.mktemp("splits")) / "t.zarr"


@pytest.fixture(scope="module")
def plans(path: Path, workload: Workload) -> tuple[str, str]:
    """Of a search and of the published recipe, nothing perturbed."""
    recorded = recorded_anew(path, workload, tiny.pipeline())
    return plan_of(recorded, path.parent / "plain"), recipe_of(recorded, path.parent / "recipe")


@pytest.mark.parametrize("broken", [False, True], ids=["other samples", "NaN among them"])
def test_other_test_samples_give_the_same_plan(
    plans: tuple[str, str], path: Path, workload: Workload, tmp_path: Path, broken: bool
) -> None:
    before = Trace(path).gram("test")
    recorded = recorded_anew(path, workload, perturbing(workload, "test", broken))
    assert bool(recorded.attributes.excluded) == broken
    assert not np.allclose(recorded.gram("test"), before, rtol=1e-3), "the perturbation must be one"
    assert plan_of(recorded, tmp_path / "search") == plans[0]
    assert recipe_of(recorded, tmp_path / "recipe") == plans[1]


def test_a_scrambled_test_split_gives_the_same_plan(
    plans: tuple[str, str], path: Path, workload: Workload, tmp_path: Path
) -> None:
    names = ("points/trunk/values", "points/trunk/gram", "points/trunk/batch_gain", "latents")
    plain = recorded_anew(path, workload, tiny.pipeline())
    before = {name: plain.array(name) for name in names}
    scramble(path, "test", workload)
    recorded = Trace(path)
    for name in names:
        assert not np.array_equal(recorded.array(name), before[name]), name
    assert plan_of(recorded, tmp_path / "search") == plans[0]
    assert recipe_of(recorded, tmp_path / "recipe") == plans[1]


@pytest.mark.parametrize("split", ["fit", "select"])
def test_other_splits_do_reach_the_plan(
    plans: tuple[str, str], path: Path, workload: Workload, tmp_path: Path, split: Split
) -> None:
    """Else equal plans would show nothing."""
    recorded_anew(path, workload, tiny.pipeline())
    scramble(path, split, workload)
    assert plan_of(Trace(path), tmp_path / "search") != plans[0]


def fitted(problem: Problem) -> dict[str, list[np.ndarray]]:
    """All that is fitted, for given settings and a given schedule."""
    settings, schedule = Settings(groups=3), Schedule.from_steps(12, (0, 1, 4, 8))
    taps = fit_solver(problem.fit, schedule, problem.times(settings.axis), settings.depth, settings.ridge).weights
    groups, solvers = choose_once(problem, PRESETS["hyca"].pool, 0)
    gram, places = problem.regressions(held(problem))
    own = channel_taps(problem, settings, held(problem))
    return {
        "gains": [problem.channel_gain, problem.step_weights],
        "groups": partition(problem, settings, 0),
        "taps": [taps, own, plan_taps(repaid(problem, with_taps(held(problem), own), 0.5))],
        "coordinates": [preconditioned(taps, places, gram)(torch.ones(taps.shape)).numpy()],
        "the recipe's choice": [*groups, np.array([solver.name for solver in solvers])],
    }


def held(problem: Problem) -> NetworkPlan:
    """A section of the schedule in `fitted` that reuses."""
    groups = [(np.arange(problem.trace.num_channels), Hold(), Hold())]
    return assemble_section(problem, Schedule.from_steps(12, (0, 1, 4, 8)), "sigma", {(FEATURE, EVERY): groups})


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_but_the_fit_split_is_fitted(path: Path, workload: Workload, split: Split) -> None:
    plain = fitted(Problem(recorded_anew(path, workload, tiny.pipeline())))
    scramble(path, split, workload)
    for name, arrays in fitted(Problem(Trace(path))).items():
        equal = all(np.array_equal(a, b) for a, b in zip(arrays, plain[name], strict=False))
        assert equal == (split != "fit"), name


def test_pushes_are_on_samples_of_the_fit_split(recorded: Trace, workload: Workload) -> None:
    """Damping is measured on the model itself: no other noise is drawn."""
    drawn: set[int] = set()

    class Watched(EmojiPipeline):
        def __call__(self, *args: Any, **call: Any) -> Any:
            drawn.update(generator.initial_seed() for generator in call["generator"])
            return super().__call__(*args, **call)

    pipe = tiny.pipeline()
    pipe.__class__ = Watched
    measure_damping(pipe, Problem(recorded), probes=6)
    assert drawn
    assert drawn <= {job.seed for job in workload.of("fit")}


def test_gains_are_measured_on_the_fit_split_alone(recorded: Trace, workload: Workload) -> None:
    request = Request.read(recorded.folder)
    assert [job for n in request.gain_batches for job in request.batches[n]] == list(workload.of("fit"))
    gains = recorded.array("points/trunk/batch_gain")
    others = [n for n in range(len(request.batches)) if n not in request.gain_batches]
    assert not gains[others].any()
    np.testing.assert_allclose(recorded.gain, gains.sum(0) / len(workload.of("fit")))


def test_traces_of_before_are_refused_with_a_cure(path: Path, workload: Workload, tmp_path: Path) -> None:
    """Complete ones, and begun ones, whose batches would be summed with others."""
    recorded_anew(path, workload, tiny.pipeline())
    old = tmp_path / "old.zarr"
    shutil.copytree(path, old)
    request = json.loads((old / "request.json").read_text())
    del request["version"]
    (old / "request.json").write_text(json.dumps(request))
    meta = json.loads((old / "zarr.json").read_text())
    meta["attributes"]["version"] = 4
    (old / "zarr.json").write_text(json.dumps(meta))
    cure = "of an older hyca, expected version 5 .*no statistics of each other.* with --overwrite"
    with pytest.raises(TraceError, match=f"version 4 is {cure}"):
        Trace(old)
    (old / "manifest.json").unlink()
    for act in (lambda: Trace(old), lambda: recorded_at(old, workload), lambda: merge_traces([old], tmp_path / "out")):
        with pytest.raises(TraceError, match=cure):
            act()
    assert recorded_at(old, workload, overwrite=True)
    assert np.array_equal(Trace(old).gain, Trace(path).gain)

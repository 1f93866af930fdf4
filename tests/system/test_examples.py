"""The worked examples of docs/extend.md do what it says, and keep the contracts of what ships."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny
import torch
from diffusers import ImagePipelineOutput
from plans import make_plan

from hyca_calib.clusters import cluster, clusterers
from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan, load_plan, save_plan
from hyca_runtime.attach.points import find_blocks
from hyca_runtime.attach.proxies import placed
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies import policies
from hyca_runtime.solvers import Instant, Newton, solvers
from hyca_runtime.testing import check_policy, check_solver
from studies.zoo import MODELS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example() -> Iterator[Callable[[str], ModuleType]]:
    """Runs a file of docs/examples; what it registers is forgotten afterwards."""
    kept = dict(solvers._entries), dict(clusterers._entries), dict(policies._entries)

    def run(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "examples" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    yield run
    solvers._entries, clusterers._entries, policies._entries = kept


def test_solver(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    damped = example("my_solver").Damped()
    check_solver(damped)
    past = [Instant(1, 0.8), Instant(0, 1.0)]
    near, far = (damped.rows(past, Instant(2, t))[:, 0] for t in (0.799, 0.0))
    np.testing.assert_allclose(near, Newton(1).rows(past, Instant(2, 0.799))[:, 0], atol=1e-4)
    assert far[0] < Newton(1).rows(past, Instant(2, 0.0))[0, 0]
    pipe = tiny.pipeline()
    save_plan(make_plan(pipe.transformer, solvers=(damped,)), tmp_path / "plan.json")
    with apply_plan(pipe, load_plan(tmp_path / "plan.json")) as session:
        pipe("red cat", num_inference_steps=12)
        assert session.report().computed == 4


def test_clusterer(example: Callable[[str], ModuleType]) -> None:
    example("my_clusterer")
    values = np.random.default_rng(0).normal(size=(40, 3))
    groups = cluster("quantiles", values, 4, seed=0)
    assert sorted(len(group) for group in groups) == [10] * 4
    assert sorted(np.concatenate(groups).tolist()) == list(range(40))
    tops = sorted(values[group, 0].max() for group in groups)
    assert sum(values[:, 0] <= tops[0]) == 10, "groups are intervals"


def draw(pipe: EmojiPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = pipe("red cat", num_inference_steps=12, generator=generator, output_type="pt")
    assert isinstance(drawn, ImagePipelineOutput)
    assert isinstance(drawn.images, torch.Tensor)
    return drawn.images


@pytest.mark.parametrize(
    ("longest", "most", "computed"), [(6, None, (0, 2, 5, 9)), (1, None, (0, 2, 4, 6, 8, 10)), (6, 3, (0, 2, 5))]
)
def test_policy(
    example: Callable[[str], ModuleType], longest: int, most: int | None, computed: tuple[int, ...], tmp_path: Path
) -> None:
    """As content of a plan, in a file; where it departs from the schedule, closed forms forecast."""
    policy = example("my_policy").GrowingGaps(longest)
    check_policy(policy)
    pipe = tiny.pipeline()
    section = make_plan(pipe.transformer, computed=(0, 1, 4, 8)).section
    fields = {name: getattr(section, name) for name in NetworkPlan.model_fields} | {"policy": policy.spec(most)}
    save_plan(Plan(name="x", sections=(NetworkPlan(**fields),)), tmp_path / "plan.json")
    calls: list[int] = []
    handle = pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with apply_plan(pipe, tmp_path / "plan.json", "error") as session:
        drawn = [draw(pipe) for _ in range(2)]
        assert (session.report().steps, session.report().computed) == (12, len(computed))
    handle.remove()
    assert len(calls) == 2 * len(computed)
    assert torch.equal(*drawn)


def test_the_guide_names_files_that_exist() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_schema_is_of_this_version() -> None:
    """Made by the command in docs/plan.md."""
    assert json.loads((ROOT / "docs" / "plan.schema.json").read_text()) == Plan.model_json_schema()


@pytest.mark.slow
def test_api_pages_are_built(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    command = [sys.executable, "-W", "ignore", "-m", "pdoc", "hyca_runtime", "-o", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "hyca_runtime.html").read_text()
    assert "apply_plan" in page
    assert "Make a diffusers pipeline, or a transformer, follow" in page


def test_preset(example: Callable[[str], ModuleType], recorded: Trace, tmp_path: Path) -> None:
    section = example("my_preset").early_dense(Problem(recorded), Budget.parse("3x"))
    assert section.schedule.computed_steps == (0, 4, 8)
    save_plan(Plan(name="early dense", sections=(section,)), tmp_path / "plan.json")
    pipe = tiny.pipeline()
    with apply_plan(pipe, load_plan(tmp_path / "plan.json"), "error") as session:
        draw(pipe)
        assert session.report().computed_at == section.schedule.computed_steps


def test_point(example: Callable[[str], ModuleType]) -> None:
    """Forecast from what it captured, the network returns the same, and every second block does not run."""
    made, ran = MODELS["FluxTransformer2DModel"], list[int]()
    network, call = made.build(), made.call()
    bound = example("my_point").every_second_block(network)
    for number, place in enumerate(find_blocks(network)):
        place.module.register_forward_hook(lambda *_, number=number: ran.append(number))
    blocks = len(find_blocks(network))
    with torch.no_grad(), placed(bound.captures()):
        output = network(**call)[0]
        feature = bound.captured(output)
    assert ran == [*range(blocks)]
    ran.clear()
    with torch.no_grad(), placed(bound.injectors(feature)):
        torch.testing.assert_close(network(**call)[0], output)
    assert ran == [*range(0, blocks, 2)]

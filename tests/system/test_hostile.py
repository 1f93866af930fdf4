"""Files of unknown origin: only clean errors, whatever is in them."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutant, watched
from plans import make_plan
from storage import record

from hyca_calib.pipelines.workload import Workload, read_prompts
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.metadata import check_array
from hyca_calib.trace.store import Trace
from hyca_runtime import HycaError, apply_plan, load_plan, save_plan
from hyca_runtime.errors import TraceError, WorkloadError
from hyca_runtime.solvers import Fitted, Hold

PLANS, METADATA = 2000, 300


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Plans of every kind."""
    pipe, folder = tiny.pipeline(), tmp_path_factory.mktemp("plans")
    steps = [s for s in range(12) if s not in (0, 1, 4, 8)]
    fitted = Fitted(steps=tuple(steps), weights=np.array([[[1.5], [-0.5]] for _ in steps]))
    plans = [
        make_plan(pipe.transformer),
        make_plan(pipe.transformer, solvers=(fitted, Hold())),
        make_plan(pipe.transformer, point="output"),
    ]
    for i, plan in enumerate(plans):
        save_plan(plan, folder / f"{i}.json")
    return [(folder / f"{i}.json").read_text() for i in range(len(plans))]


@pytest.mark.slow
def test_mutated_plans(texts: list[str], tmp_path: Path) -> None:
    """Refused, or loaded and then applied or refused: nothing else, and nothing lasting."""
    pipe, rng, path = tiny.pipeline(), random.Random(1), tmp_path / "plan.json"
    outcomes: Counter[str] = Counter()
    longest = 0
    for _ in range(PLANS):
        path.write_bytes(mutant(rng.choice(texts), rng))
        with watched(tmp_path):
            try:
                plan = load_plan(path)
            except HycaError as error:
                outcomes["refused"] += 1
                longest = max(longest, len(str(error)))
                continue
            try:
                apply_plan(pipe, plan, "error").remove()
                outcomes["applied"] += 1
            except HycaError:
                outcomes["not for this model"] += 1
    assert sum(outcomes.values()) == PLANS
    assert outcomes["refused"] > PLANS / 2
    assert longest < 2000


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=4000) | st.text(max_size=2000).map(str.encode))
def test_any_bytes_as_a_plan_or_prompts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with watched(tmp_path):
        with pytest.raises(HycaError):
            load_plan(path)
        with suppress(WorkloadError):
            assert read_prompts(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(section=json_values, key=st.sampled_from(["sections", "name", "provenance", "version", "extra"]))
def test_any_json_in_a_plan(texts: list[str], tmp_path: Path, section: object, key: str) -> None:
    content = json.loads(texts[0])
    content[key] = section
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with watched(tmp_path), suppress(HycaError):
        load_plan(tmp_path / "plan.json")


@pytest.mark.slow
def test_mutated_metadata(tmp_path: Path, workload: Workload) -> None:
    """Of every array and of the trace itself: read right, or refused."""
    good, rng = tmp_path / "good.zarr", random.Random(2)
    record(good, workload)
    truth = Trace(good).gram("fit")
    names = sorted(
        p.relative_to(good) for p in good.rglob("*.json") if "commits" not in p.parts and "runs" not in p.parts
    )
    outcomes: Counter[str] = Counter()
    path = Path(shutil.copytree(good, tmp_path / "t.zarr"))
    for _ in range(METADATA):
        name = rng.choice(names)
        (path / name).write_bytes(mutant((good / name).read_text(), rng))
        with watched(path):
            try:
                found = Trace(path)
                found.latents_of("select"), found.values("test"), found.workload()
                assert found.gram("fit").shape == truth.shape
                outcomes["read"] += 1
            except HycaError:
                outcomes["refused"] += 1
        shutil.copyfile(good / name, path / name)
    assert sum(outcomes.values()) == METADATA
    assert outcomes["refused"] > METADATA / 3


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"shape": [3, 1, 32, 10**6, 10**6]}, "bytes declared"),
        ({"data_type": "string"}, "data type"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "codecs"),
        ({"codecs": [{"name": "bytes"}, {"name": "numcodecs.zarr3"}]}, "codecs"),
        ({"shape": "many"}, "shape"),
        ({"shape": [-1]}, "shape"),
        ({"node_type": "group"}, "format"),
        ({"storage_transformers": [{"name": "x"}]}, "storage"),
    ],
)
def test_metadata_is_checked_before_zarr_acts_on_it(
    recorded: Trace, tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    path, name = tmp_path / "t.zarr", "points/trunk/gram"
    shutil.copytree(recorded.where, path)
    content = json.loads((path / name / "zarr.json").read_text())
    (path / name / "zarr.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(TraceError, match=rf"is not as written \(.*{fault}.*--repair"):
        check_array(Folder(path), name)
    with pytest.raises(TraceError, match="is not as written"):
        Trace(path)


def test_absurd_prompts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(WorkloadError, match="line 1"):
        read_prompts(path)
    path.write_bytes(b"x" * (65 * 1024**2))
    with pytest.raises(WorkloadError, match="more than prompts can have"):
        read_prompts(path)
    path.write_text('{"prompt": "a", "callback": "os.system"}\n')
    assert read_prompts(path)[0]["callback"] == "os.system", "a value, never code"

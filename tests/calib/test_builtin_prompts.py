"""What is sampled where nobody names a prompt."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from hyca_calib.pipelines.builtin_prompts import builtin_kind, builtin_prompts
from hyca_calib.pipelines.defaults import workload_of
from hyca_calib.pipelines.workload import Workload
from hyca_runtime.errors import WorkloadError


@pytest.mark.parametrize("kind", ["built-in images", "built-in videos", "built-in 1000 classes"])
def test_a_hundred_that_differ(kind: str) -> None:
    found = builtin_prompts(kind)
    assert len(found) == len({str(call) for call in found}) == 100
    assert found == builtin_prompts(kind)


def test_each_pipeline_gets_what_it_takes() -> None:
    assert builtin_kind(tiny.pipeline()) == "built-in images"
    assert builtin_kind(tiny.glyphs()) == "built-in 36 classes"
    assert len(builtin_prompts("built-in 36 classes")) == 36

    class Filmer:
        def __call__(self, prompt: str, num_frames: int) -> Any:
            raise NotImplementedError

    class Restorer:
        def __call__(self, image: Any, num_inference_steps: int) -> Any:
            raise NotImplementedError

    filmer: Any = Filmer()
    restorer: Any = Restorer()
    assert builtin_kind(filmer) == "built-in videos"
    with pytest.raises(WorkloadError, match="give --prompts FILE"):
        builtin_kind(restorer)


@pytest.mark.parametrize("kind", ["built-in ../../secrets", "built-in 99999999 classes", "images"])
def test_a_plan_names_no_other_file(kind: str) -> None:
    with pytest.raises(WorkloadError, match="no such prompts"):
        builtin_prompts(kind)


def test_a_plan_that_says_so_is_measured_on_them_again() -> None:
    made = Workload(builtin_prompts("built-in images"), num_samples=14, num_steps=8, seed=3)
    facts = {"prompts": "built-in images", "workload": made.describe().model_dump()}
    assert workload_of(facts, "tiny:pipeline", None) == made
    with pytest.raises(WorkloadError, match="give --prompts"):
        workload_of({"workload": facts["workload"]}, "tiny:pipeline", None)

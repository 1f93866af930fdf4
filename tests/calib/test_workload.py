from __future__ import annotations

from typing import Any

import pytest
import tiny

from hyca_calib.pipelines.workload import SPLITS, Workload, batches, merge_calls
from hyca_runtime.errors import WorkloadError


def test_no_prompt_and_no_seed_is_in_two_splits() -> None:
    workload = Workload(tiny.prompts(), num_samples=112)
    prompts = [{job.call["prompt"] for job in workload.of(split)} for split in SPLITS]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    assert len({job.seed for job in workload.jobs}) == 112
    assert [len(workload.of(split)) for split in SPLITS] == [48, 16, 48]
    assert [job.index for job in workload.jobs] == list(range(112))


def test_the_first_samples_do_not_depend_on_how_many_there_are() -> None:
    small, large = Workload(tiny.prompts(), num_samples=14), Workload(tiny.prompts(), num_samples=56)
    for split in SPLITS:
        pairs = zip(small.of(split), large.of(split), strict=False)
        assert all((a.seed, a.call) == (b.seed, b.call) for a, b in pairs)


def test_batches_hold_one_split_and_equal_settings() -> None:
    prompts: tuple[dict[str, Any], ...] = (*tiny.prompts(), *({"prompt": "x", "true_cfg_scale": 2.0},) * 4)
    workload = Workload(prompts, num_samples=28)
    groups = list(batches(workload.jobs, 4))
    assert [job.index for group in groups for job in group] == list(range(28))
    for group in groups:
        assert len({job.split for job in group}) == 1
        assert len({job.call.get("true_cfg_scale") for job in group}) == 1
        assert merge_calls(group)["prompt"] == [job.call["prompt"] for job in group]


@pytest.mark.parametrize("options", [{"num_samples": 3}, {"num_steps": 2}])
def test_too_small(options: dict[str, Any]) -> None:
    with pytest.raises(WorkloadError, match="need at least"):
        Workload(tiny.prompts(), **options)

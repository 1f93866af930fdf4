"""Lanes of one sample on processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ranks
import tiny
import torch
from plans import make_plan
from processes import forked

from hyca_runtime import apply_plan
from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers import LanesRun, sample_chords

STARTS = {2: (0, 5), 4: (0, 2, 5, 8), 8: (0, 1, 2, 3, 4, 6, 8, 10)}


def found(folder: Path, size: int, **told: Any) -> list[dict[str, Any] | None]:
    """What every rank left, None where it died."""
    processes = [
        forked().Process(target=ranks.draw, args=(folder, rank, size, STARTS[size]), kwargs=told)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    paths = [folder / f"{rank}.pt" for rank in range(size)]
    return [torch.load(path) if path.exists() else None for path in paths]


def one_after_another(size: int) -> LanesRun:
    return sample_chords(tiny.pipeline(), starts=STARTS[size], **ranks.arguments())


@pytest.mark.parametrize("size", [4, 8])
def test_all_ranks_have_the_sample(tmp_path: Path, size: int) -> None:
    run = one_after_another(size)
    for rank, left in enumerate(found(tmp_path, size)):
        assert left is not None
        assert (left["latents"] - run.output[0]).abs().max() < 1e-5
        assert (left["calls"], left["computed"], left["passes"]) == (run.calls, run.calls, run.passes)
        assert left["spare"] == int(rank > 0)


def test_plans_on_ranks(tmp_path: Path) -> None:
    pipe = tiny.pipeline()
    with apply_plan(pipe, make_plan(pipe.transformer), "adapt") as session:
        run = sample_chords(pipe, starts=STARTS[2], session=session, **ranks.arguments())
    for left in found(tmp_path, 2, planned=True):
        assert left is not None
        assert (left["latents"] - run.output[0]).abs().max() < 1e-5
        assert (left["computed"], left["passes"]) == (run.computed, run.computed_passes)
    assert sum(run.computed) < sum(run.calls)


FAULTS = {
    "weights": "rank 1 has other weights than rank 0",
    "noise": "rank 1 began from other noise than rank 0",
    "prompt": "rank 1 said something else than rank 0",
    "starts": "expected as many lanes as ranks",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_ranks_that_are_not_alike_are_refused_on_all(tmp_path: Path, fault: str) -> None:
    for left in found(tmp_path, 2, fault=fault):
        assert left is not None
        assert FAULTS[fault] in left["error"]


def test_a_rank_that_dies_ends_the_run_on_all_others(tmp_path: Path) -> None:
    one, dead, *others = found(tmp_path, 4, fault="death")
    assert dead is None
    for left in (one, *others):
        assert left is not None
        assert "lost another: it ended" in left["error"]
        assert left["seconds"] < 30


def test_a_rank_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    for left in found(tmp_path, 2, fault="silence"):
        assert left is not None
        assert "lost another: it ended, or did not answer within 0.2 s" in left["error"]


def test_a_network_that_is_spread_over_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.pipeline()
    pipe.transformer._parallel_config = object()  # as `enable_parallelism` does
    for name, answer in {"is_initialized": True, "get_rank": 0, "get_world_size": 4}.items():
        monkeypatch.setattr(torch.distributed, name, lambda *_, answer=answer: answer)
    with pytest.raises(SamplerError, match="the transformer is spread over devices itself"):
        sample_chords(pipe, where="ranks", **ranks.arguments())


def test_features_of_another_rank_are_not_carried_over() -> None:
    pipe = tiny.pipeline()
    with apply_plan(pipe, make_plan(pipe.transformer), "adapt") as session:
        told = {**ranks.arguments(), "session": session, "histories": "carried"}
        with pytest.raises(SamplerError, match="features are on another rank; expected 'kept' or 'dropped'"):
            sample_chords(pipe, where="ranks", **told)


def test_without_ranks() -> None:
    with pytest.raises(SamplerError, match="start with torchrun"):
        sample_chords(tiny.pipeline(), where="ranks", **ranks.arguments())

"""Commands around a trace: verify, gather, info, doctor, and the log for machines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import MODEL, run

from hyca_calib.commands import doctor
from hyca_calib.records import console
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan


@pytest.fixture(autouse=True)
def bars_again() -> Iterator[None]:
    yield
    console._json = False


TRACE = ["trace", *MODEL, "--prompts", "prompts.txt", "--samples", 14, "--steps", 6, "--batch", 2]


def test_parts_are_gathered_verified_and_repaired(folder: Path) -> None:
    for k in (1, 2):
        done = run(*TRACE, "--share", f"{k}/2", "--out", f"part{k}.zarr")
        assert done.exit_code == 0
        assert "share" in done.stderr
    assert run("gather", "part1.zarr", "--out", "whole.zarr").stdout == "whole.zarr: 8 of 14 samples, incomplete\n"
    assert "incomplete, 8 of 14 samples" in run("search", "--budget", "2x", "--trace", "whole.zarr").stderr
    assert "begun; give the same `trace` command again" in run("info", "whole.zarr").stdout
    assert run("gather", "part1.zarr", "part2.zarr", "--out", "whole.zarr").stdout == "whole.zarr: 14 of 14 samples\n"
    sound = run("verify", "whole.zarr")
    assert (sound.exit_code, sound.stdout) == (0, "whole.zarr: sound\n")
    victim = folder / "whole.zarr/points/trunk/values/c/5/0/0/0/0"
    victim.write_bytes(b"rot" + victim.read_bytes()[3:])
    ill = run("verify", "whole.zarr")
    assert (ill.exit_code, ill.stdout) == (1, "whole.zarr: 1 files damaged\n")
    assert "changed: points/trunk/values/c/5/0/0/0/0 (batch 2, samples 4, 5)" in ill.stderr
    untrusted = run("verify", "whole.zarr", "--repair")
    assert (untrusted.exit_code, "say so with --model tiny:pipeline" in untrusted.stderr) == (2, True)
    assert run("verify", "whole.zarr").stdout == "whole.zarr: 1 files damaged\n", "nothing was thrown away"
    mended = run("verify", "whole.zarr", "--repair", *MODEL)
    assert (mended.exit_code, mended.stdout) == (0, "whole.zarr: sound\n")
    assert Trace("whole.zarr").values("fit").shape[0] == 6


def test_what_is_refused(folder: Path) -> None:
    for share in ("0/2", "3/2", "half", "1/0"):
        refused = run(*TRACE, "--share", share)
        assert refused.exit_code == 2
        assert "share" in refused.stderr
    assert "no trace here" in run("verify", "nothing.zarr").stderr
    assert "neither a trace nor a study nor a plan" in run("info", ".").stderr
    refused = run("search", "--budget", "2x", "--trace", "s3x://bucket/t.zarr")
    assert (refused.exit_code, "cannot open s3x://" in refused.stderr) == (2, True)


@pytest.mark.usefixtures("unreported")
def test_info_tells_all_in_one_screen(folder: Path) -> None:
    assert run(*TRACE, "--out", "t.zarr").exit_code == 0
    told = run("info", "t.zarr").stdout
    assert len(told.splitlines()) < 24
    for part in ("complete", "tiny:pipeline (EmojiPipeline", "14 of 14, of 7 prompts", "GFLOPs", "no sample", "torch"):
        assert part in told
    limits = ["--trials", 2, "--probes", 4, "--confirm", 60, "--rollouts", 2, "--refine", 0]
    assert run("search", "--budget", "2x", *MODEL, *limits, "--trace", "t.zarr", "--out", "s").exit_code == 0
    study, plan = run("info", "s").stdout, run("info", "s/plan.json").stdout
    for part in ("study", "complete", "2x", "rollouts"):
        assert part in study
    computed = " ".join(map(str, load_plan("s/plan.json").section.schedule.computed_steps))
    for part in ("at trunk, 32 channels", computed, "fitted (32 channels)", "t.zarr"):
        assert part in plan
        assert part in study
    facts = json.loads(run("info", "s/plan.json", "--json").stdout)
    assert facts["transformer: computed"] == computed
    note = json.loads(next((folder / "s/runs").iterdir()).read_text())
    assert {"command", "host", "device", "versions", "begun", "ended"} <= note.keys()
    assert note["ended"]


def test_the_log_for_machines(folder: Path) -> None:
    done = run("--log-json", *TRACE, "--out", "t.zarr")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in events} == {"news", "progress"}
    assert events[-1]["done"] == events[-1]["total"] == 14
    assert all(event["time"] > 1e9 for event in events)
    refused = run("--log-json", "search", "--budget", "nonsense", "--trace", "t.zarr")
    (event,) = [json.loads(line) for line in refused.stderr.splitlines()]
    assert (event["event"], event["kind"], refused.exit_code) == ("error", "BudgetError", 2)


def test_a_sound_installation() -> None:
    done = run("doctor")
    assert done.exit_code == 0, done.stdout
    for part in ("embedded model  samples (1, 64, 48)", "2 of 4 steps computed", "Zarr writes and reads", "no GPU"):
        assert part in done.stdout or part == "no GPU"
    for name in ("torch", "pydantic", "hyca-calib", "diffusers", "optuna", "zarr"):
        assert re.search(rf"^ok   {name} ", done.stdout, re.MULTILINE), "both distributions' requirements are looked at"


def test_an_ill_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ValueError("its pictures hold NaN")

    monkeypatch.setattr(doctor, "_sampled", broken)
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=99", "no-such-package", "moto; extra == 'dev'"])
    done = run("doctor")
    assert done.exit_code == 1
    assert "BAD  embedded model   ValueError: its pictures hold NaN" in done.stdout
    assert "needed >=99" in done.stdout
    assert "missing" in done.stdout
    assert "moto" not in done.stdout

"""Several processes on one trace, and on one search; one of them is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import tiny
from commands import MODEL
from jobs import NAMES, TRIALS, trace_and_search, workload
from optuna.trial import TrialState
from storage import contents, record

from hyca_calib.search.storage import open_study
from hyca_calib.trace.store import Trace
from hyca_calib.trace.verify import verify
from hyca_runtime import load_plan

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.mark.slow
def test_four_ranks_write_one_store(tmp_path: Path) -> None:
    """As torchrun starts them; the same bytes as one process on the same number of threads."""
    (tmp_path / "prompts.txt").write_text("\n".join(p["prompt"] for p in tiny.prompts()))
    options = [*MODEL, "--prompts", "prompts.txt", "--samples", "14", "--steps", "6", "--batch", "1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for ranks, out in ((4, "four.zarr"), (1, "one.zarr")):
        command = [*launcher, str(ranks), "-m", "hyca_calib", "trace", *options, "--out", out]
        done = subprocess.run(command, check=False, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    assert contents(tmp_path / "four.zarr") == contents(tmp_path / "one.zarr")
    assert verify(tmp_path / "four.zarr") == []
    runs = [json.loads(path.read_text()) for path in (tmp_path / "four.zarr/runs").iterdir()]
    assert sorted(run["share"] for run in runs) == [f"{rank}-of-4" for rank in range(4)]
    assert sum(run["done"] for run in runs) == 14
    assert all("--batch" in run["command"] and run["versions"] for run in runs)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database server of its own, as the distribution packages it."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql")
    folder: Path = tmp_path_factory.mktemp("postgres")
    owner = "postgres" if os.getuid() == 0 else None  # it refuses to be run by root
    for place in (folder, *folder.parents):
        if owner and place.is_relative_to("/tmp") and place != Path("/tmp"):  # noqa: S108
            place.chmod(0o755)
    if owner:
        shutil.chown(folder, owner)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries, data = POSTGRES[-1], folder / "data"
    initialise: list[str | Path] = [binaries / "initdb", "-D", data, "-A", "trust", "-U", "hyca", "--no-sync"]
    subprocess.run(initialise, user=owner, cwd=folder, check=True, capture_output=True)
    serve: list[str | Path] = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    server = subprocess.Popen(serve, user=owner, cwd=folder, stderr=subprocess.DEVNULL)
    ready: list[str | Path] = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
    while subprocess.run(ready, check=False).returncode:
        assert server.poll() is None
        time.sleep(0.1)
    yield f"postgresql+psycopg://hyca@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGQUIT)
    server.wait()


def start(folder: Path, storage: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-W", "ignore", str(TESTS / "jobs.py"), str(folder), storage, "2"]
    return subprocess.Popen(arguments, env=ENVIRONMENT)


def trials(storage: str) -> dict[str, list[optuna.trial.FrozenTrial]]:
    summaries = optuna.get_all_study_names(open_study(storage, "other")._storage)
    return {name: open_study(storage, name).get_trials(deepcopy=False) for name in summaries if name != "other"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "database"])
def test_two_workers_of_which_one_is_killed(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """Every trial and every rollout is made, each once that counts, and the plan is the one of a lone worker."""
    storage = request.getfixturevalue("postgres") if kind == "database" else str(tmp_path / "shared.log")
    record(tmp_path / NAMES[0], workload(), batch=2)
    first, second = start(tmp_path, storage), start(tmp_path, storage)
    deadline = time.monotonic() + 300
    while not any("rollouts" in name and len(found) > 4 for name, found in trials(storage).items()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.kill()
    first.wait()
    assert second.wait(300) == 0
    found = trials(storage)
    (tuned,), (rolled,) = ([f for name, f in found.items() if name.startswith(k)] for k in ("tune", "rollouts"))
    assert sum(t.state == TrialState.COMPLETE for t in tuned) in (TRIALS, TRIALS + 1)  # both may begin the last one
    done = [t.user_attrs["task"] for t in rolled if t.state == TrialState.COMPLETE]
    lost = {t.user_attrs["task"] for t in rolled if t.state == TrialState.FAIL and "task" in t.user_attrs}
    assert lost <= set(done)
    assert not [t for t in rolled if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    plan = load_plan(tmp_path / NAMES[1] / "plan.json")
    assert len(plan.section.schedule.computed_steps) == 3
    assert Trace(tmp_path / NAMES[0]).num_steps == plan.section.schedule.num_steps
    trace_and_search(tmp_path, storage)  # complete: nothing happens
    assert trials(storage).keys() == found.keys()

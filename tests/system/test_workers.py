"""Several processes on one trace, and on one search; one of them is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import optuna
import psycopg
import pytest
import tiny
import torch
from commands import MODEL, run
from jobs import NAMES, TRIALS, killed_in_a_rollout, trace_and_search, waiting_for_a_death, workload
from optuna.trial import TrialState
from processes import command, forked
from storage import contents, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from hyca_calib.search.storage import open_study
from hyca_calib.trace.store import Trace
from hyca_calib.trace.verify import verify
from hyca_runtime import load_plan

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """In this process, as in others of our tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_four_ranks_write_one_store(tmp_path: Path) -> None:
    """As torchrun starts them; the same bytes as one process on the same number of threads."""
    (tmp_path / "prompts.txt").write_text("\n".join(p["prompt"] for p in tiny.prompts()))
    options = [*MODEL, "--prompts", str(tmp_path / "prompts.txt"), "--samples", "14", "--steps", "6", "--batch", "1"]
    config = LaunchConfig(1, 1, 4, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="forkserver")
    forked()
    elastic_launch(config, command)("trace", *options, "--out", str(tmp_path / "four.zarr"))
    assert run("trace", *options, "--out", tmp_path / "one.zarr").exit_code == 0
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

    def control(*arguments: str) -> None:
        """Returns when it is done."""
        call = [str(POSTGRES[-1] / "pg_ctl"), "-D", str(folder / "data"), "--silent", *arguments]
        subprocess.run(call, user=owner, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    control("init", "-o", "-A trust -U hyca --no-sync")
    control("start", "--wait", "-l", str(folder / "log"), "-o", f"-p {port} -k {folder} -h 127.0.0.1")
    yield f"postgresql+psycopg://hyca@127.0.0.1:{port}/postgres"
    control("stop", "-m", "immediate")


def trials(storage: str) -> dict[str, list[optuna.trial.FrozenTrial]]:
    summaries = optuna.get_all_study_names(open_study(storage, "other")._storage)
    return {name: open_study(storage, name).get_trials(deepcopy=False) for name in summaries if name != "other"}


@pytest.mark.slow
def test_workers_that_begin_at_once_make_the_tables_once(postgres: str) -> None:
    """Optuna makes them in several transactions; whoever loses one of them tries again."""
    server, _, _ = postgres.rpartition("/")
    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("CREATE DATABASE races")
    together = Barrier(8)

    def opened(name: str) -> str:
        together.wait()
        return open_study(f"{server}/races", name).study_name

    with ThreadPoolExecutor(8) as workers:
        assert list(workers.map(opened, "abcdefgh")) == list("abcdefgh")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["journal", "database"])
def test_two_workers_of_which_one_is_killed(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trial and every rollout is made, each once that counts, and the plan is the one of a lone worker."""
    storage = request.getfixturevalue("postgres") if kind == "database" else str(tmp_path / "shared.log")
    record(tmp_path / NAMES[0], workload(), batch=2)
    dead = forked().Event()
    first = forked().Process(target=killed_in_a_rollout, args=(tmp_path, storage))
    second = forked().Process(target=waiting_for_a_death, args=(tmp_path, storage, dead))
    first.start()
    second.start()
    first.join()
    dead.set()
    second.join()
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 0)
    found = trials(storage)
    (tuned,), (rolled,) = ([f for name, f in found.items() if name.startswith(k)] for k in ("tune", "rollouts"))
    assert sum(t.state == TrialState.COMPLETE for t in tuned) in (TRIALS, TRIALS + 1)  # both may begin the last one
    done = [t.user_attrs["task"] for t in rolled if t.state == TrialState.COMPLETE]
    (lost,) = [t.user_attrs["task"] for t in rolled if t.state == TrialState.FAIL and "task" in t.user_attrs]
    assert lost in done
    assert not [t for t in rolled if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    plan = load_plan(tmp_path / NAMES[1] / "plan.json")
    assert len(plan.section.schedule.computed_steps) == 3
    assert Trace(tmp_path / NAMES[0]).num_steps == plan.section.schedule.num_steps
    monkeypatch.chdir(tmp_path)
    trace_and_search(tmp_path, storage)  # complete: nothing happens
    assert trials(storage).keys() == found.keys()

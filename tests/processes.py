"""Processes that have imported everything when they begin: forked from a server that has done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any
from unittest import mock

from hyca_calib.search.effort import EFFORTS, Effort

__all__ = [
    "LEAST_EFFORT",
    "SMALL_EFFORT",
    "command",
    "forked",
    "killed_command",
    "script",
    "small_calibration",
    "spinning",
]

SMALL_EFFORT = Effort("quick", samples=14, probes=6, trials=2, rollouts=4, iterations=2, batch=2)
"""For tests; it has the name of a real one."""
LEAST_EFFORT = replace(SMALL_EFFORT, samples=7, probes=3)
"""For tests that look at no figure."""


@cache
def forked() -> ForkServerContext:
    """The context that starts them. The server is the one that `Verification` takes its processes from, too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hyca_calib.bench.verify", "hyca_calib.cli", "jobs", "processes"])
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # the server looks nowhere else
        ensure_running()
    return context


def command(*arguments: str) -> None:
    """``python -m hyca_calib``."""
    sys.argv = ["hyca_calib", *arguments]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    runpy.run_module("hyca_calib", run_name="__main__", alter_sys=True)


def killed_command(folder: Path, victim: str, *arguments: str) -> None:
    """``python -m hyca_calib`` in `folder`, killed when the file called `victim` is to be replaced by a newer one."""
    os.chdir(folder)
    _die_before(victim, newer=True)
    command(*arguments)


def small_calibration(folder: Path, victim: str, *arguments: str) -> None:
    """``hyca calibrate`` in `folder` with little effort, killed when a file called `victim` is to be written."""
    os.chdir(folder)
    EFFORTS["quick"] = LEAST_EFFORT
    _die_before(victim, newer=False)
    command("calibrate", "--effort", "quick", *arguments)


def _die_before(victim: str, newer: bool) -> None:
    def hear(event: str, told: tuple[Any, ...]) -> None:
        if event == "os.rename" and Path(told[1]).name == victim and (Path(told[1]).exists() or not newer):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def script(path: Path, arguments: list[str], output: Connection, errors: Path) -> None:
    """``python path ...``, with its standard streams."""
    os.dup2(output.fileno(), 1)
    with errors.open("w") as log:
        os.dup2(log.fileno(), 2)
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")


def spinning() -> None:
    """A process that is busy until it is killed."""
    while True:
        pass

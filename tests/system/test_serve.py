"""The example server: many threads, plans and workers at once, and never another picture than alone."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import runpy
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import tiny
import torch
from plans import STEPS, make_plan
from processes import forked, script

from hyca_runtime import Plan, apply_plan, save_plan
from hyca_runtime.solvers import AdamsBashforth, Hold

SERVER = Path(__file__).parents[2] / "docs/examples/serve.py"
PROMPTS = ("red heart", "blue cat", "green star")
SEEDS = (1, 2)


class Running:
    """A server process."""

    def __init__(self, process: BaseProcess, port: int) -> None:
        self.process, self.port = process, port

    def ask(self, path: str, method: str = "GET", body: str = "", **query: object) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request(method, f"{path}?{urlencode(query)}" if query else path, body or None)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def complain(self, path: str, **query: object) -> tuple[int, str]:
        """Status and the one line of an answer that is an error."""
        status, headers, body = self.ask(path, "GET", "", **query)
        text = body.decode()
        assert headers["Content-Type"] == "text/plain"
        assert "\n" not in text
        return status, text


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    module = tiny.pipeline().transformer
    return {"fast": make_plan(module), "fine": make_plan(module, (0, 1, 3, 5, 7, 9), (AdamsBashforth(2), Hold()))}


@pytest.fixture(scope="module")
def files(plans: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("plans")
    for name, plan in plans.items():
        save_plan(plan, folder / f"{name}.json")
    return {name: folder / f"{name}.json" for name in plans}


@contextmanager
def serving(files: dict[str, Path], log: Path, workers: int = 2) -> Iterator[Running]:
    arguments = ["--model", "tiny:pipeline", "--port", "0", "--workers", str(workers)]
    arguments += itertools.chain(*(("--plan", f"{name}={path}") for name, path in files.items()))
    reading, writing = forked().Pipe(duplex=False)
    process = forked().Process(target=script, args=(SERVER, arguments, writing, log))
    process.start()
    writing.close()
    try:
        with open(reading.fileno(), closefd=False) as output:
            ready = output.readline()
        assert ready.startswith("listening on http://127.0.0.1:"), log.read_text()
        yield Running(process, int(ready.rsplit(":", 1)[1]))
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def server(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(files, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def alone(plan: Plan | None, prompt: str, seed: int) -> bytes:
    """The PNG of a fresh pipeline that does nothing else."""
    pipe: Any = tiny.pipeline()
    png = io.BytesIO()
    session = apply_plan(pipe, plan, on_mismatch="error") if plan is not None else None
    pipe(prompt, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed)).images[0].save(png, "PNG")
    assert session is None or session.report().computed == len(session.plan.section.schedule.computed_steps)
    return png.getvalue()


def test_mixed_requests_from_many_threads_get_the_picture_they_would_get_alone(
    server: Running, plans: dict[str, Plan]
) -> None:
    choices = list(itertools.product([*plans, "none"], PROMPTS, SEEDS))
    expected = {(name, p, s): alone(plans.get(name), p, s) for name, p, s in choices}
    assert len(set(expected.values())) == len(choices), "pictures that cannot be told apart prove nothing"
    requests = choices * 4
    random.Random(0).shuffle(requests)

    def ask(request: tuple[str, str, int]) -> tuple[int, dict[str, str], bytes]:
        name, prompt, seed = request
        return server.ask("/generate", prompt=prompt, plan=name, seed=seed)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, requests))
    steps = {"fast": f"4 of {STEPS}", "fine": f"6 of {STEPS}", "none": f"{STEPS} of {STEPS}"}
    for request, (status, headers, png) in zip(requests, answers, strict=True):
        assert status == 200, png
        assert png == expected[request], request
        assert headers["Content-Type"] == "image/png"
        assert headers["X-Hyca-Steps"] == steps[request[0]]
        assert float(headers["X-Seconds"]) > 0


def test_post_and_defaults(server: Running, plans: dict[str, Plan]) -> None:
    expected = alone(plans["fast"], "red heart", 0)
    assert server.ask("/generate", prompt="red heart")[2] == expected
    assert server.ask("/generate", "POST", prompt="red heart", plan="fast", seed=0)[2] == expected
    assert server.ask("/generate", "POST", body="prompt=red+heart&seed=0")[2] == expected


def test_plans_and_health(server: Running) -> None:
    status, headers, body = server.ask("/plans")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {
        "fast": {"computed": 4, "steps": STEPS},
        "fine": {"computed": 6, "steps": STEPS},
        "none": {"computed": STEPS, "steps": STEPS},
    }
    assert server.ask("/healthz")[::2] == (200, b"ok")


def test_bad_requests_get_one_line(server: Running) -> None:
    assert server.complain("/generate", prompt="red heart", plan="slow") == (
        404,
        "unknown plan 'slow'; known: fast, fine, none",
    )
    assert server.complain("/draw") == (404, "unknown address; known: /generate, /plans, /healthz")
    for query, word in (
        ({}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 501}, "prompt"),
        ({"prompt": "red heart", "seed": "one"}, "seed"),
        ({"prompt": "red heart", "seed": "-1"}, "seed"),
        ({"prompt": "red heart", "seed": 2**63}, "seed"),
        ({"prompt": "red heart", "steps": 4}, "steps"),
    ):
        status, line = server.complain("/generate", **query)
        assert status == 400
        assert word in line
    assert server.complain("/generate?prompt=a&prompt=b")[0] == 400
    assert server.ask("/generate", "POST", body="x" * 20_000)[0] == 400
    assert server.ask("/healthz")[0] == 200


def test_clients_that_leave_or_talk_nonsense_do_no_harm(server: Running, plans: dict[str, Plan]) -> None:
    for text in (b"GET /generate?prompt=red+heart HTTP/1.0\r\n\r\n", b"\x00\xff nonsense\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(text)
    assert server.ask("/generate", prompt="blue cat", seed=1)[2] == alone(plans["fast"], "blue cat", 1)


def test_a_plan_file_may_be_replaced_while_the_server_runs(plans: dict[str, Plan], tmp_path: Path) -> None:
    """Also by one that is broken, or for another network: only its own requests fail, until it is mended."""
    live = {"live": tmp_path / "live.json", "steady": tmp_path / "steady.json"}
    for path in live.values():
        save_plan(plans["fast"], path)
    stranger = make_plan(tiny.pipeline(heads=4).transformer)
    with serving(live, tmp_path / "log", workers=1) as server:
        assert server.ask("/generate", prompt="blue cat", plan="live")[2] == alone(plans["fast"], "blue cat", 0)
        live["live"].write_text("{")
        status, line = server.complain("/generate", prompt="blue cat", plan="live")
        assert status == 500
        assert "not valid JSON" in line
        save_plan(stranger, live["live"])
        status, line = server.complain("/generate", prompt="blue cat", plan="live")
        assert status == 500
        assert "another configuration" in line
        assert server.ask("/generate", prompt="blue cat", plan="steady")[2] == alone(plans["fast"], "blue cat", 0)
        save_plan(plans["fine"], live["live"])
        _, headers, png = server.ask("/generate", prompt="blue cat", plan="live")
        assert headers["X-Hyca-Steps"] == f"6 of {STEPS}"
        assert png == alone(plans["fine"], "blue cat", 0)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_pictures_finish_and_ends_the_server(
    files: dict[str, Path], plans: dict[str, Plan], tmp_path: Path, stop: signal.Signals
) -> None:
    """Every accepted request is answered: by its picture, or by 503 if none was begun."""
    expected = alone(None, "red heart", 1)
    statuses = []
    with serving(files, tmp_path / "log") as server, ThreadPoolExecutor(40) as threads:
        asked = [threads.submit(server.ask, "/generate", prompt="red heart", plan="none", seed=1) for _ in range(40)]
        next(as_completed(asked)).result()
        assert server.process.pid is not None
        os.kill(server.process.pid, stop)
        server.process.join()
        assert server.process.exitcode == 0, (tmp_path / "log").read_text()
        for answer in asked:
            with suppress(ConnectionError):  # it came too late to be accepted
                status, _, body = answer.result()
                assert body == {200: expected, 503: b"the server is stopping"}[status]
                statuses.append(status)
    assert set(statuses) == {200, 503}
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_wrong_command_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.json").write_text('{"format": "hyca-plan", "version": 1}')
    for plan, line in ((f"a={tmp_path / 'old.json'}", "a plan of an older hyca"), ("fast", "expected NAME=PATH")):
        monkeypatch.setattr("sys.argv", [str(SERVER), "--model", "tiny:pipeline", "--plan", plan])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(str(SERVER), run_name="__main__")
        assert line in capsys.readouterr().err.splitlines()[-1]

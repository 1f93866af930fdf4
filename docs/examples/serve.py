"""A picture server in which every request names its own plan; docs/serving.md explains it.

    python docs/examples/serve.py --plan fast=studies/served/5x/plan.json --plan fine=studies/served/2x/plan.json

    curl -o heart.png "http://127.0.0.1:8000/generate?prompt=red+heart&plan=fast&seed=1"
    curl http://127.0.0.1:8000/plans

One network is in memory, however many plans and workers there are.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import torch

from hyca_calib.pipelines.load import load_pipeline
from hyca_runtime import HycaError, Plan, PlanCache, apply_plan

FULL = "none"
MAX_PROMPT, MAX_SEED, MAX_BODY = 500, 2**63 - 1, 1 << 14


class RequestError(Exception):
    """Answered with an HTTP status and one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Studio:
    """Draws pictures, each by the plan that its request names.

    Args:
        pipe: a pipeline; its networks are shared by all workers.
        files: the plan files, by the names that requests use.
        workers: how many pictures are drawn side by side.
    """

    def __init__(self, pipe: Any, files: Mapping[str, str], workers: int) -> None:
        self._pipe, self._files, self._cache = pipe, files, PlanCache()
        plans = [self._cache.get(file) for file in files.values()]
        self._full_steps = steps_of(plans[0])[1]
        # Applied once, for all threads. A request that leaves its plan shall fail, not cost the full price unseen.
        self._session = apply_plan(pipe, plans[0], on_mismatch="error")
        for plan in plans:
            with self._session.following(plan):  # a plan for another network is refused now, not at a request
                pass
        # Fixed threads, because the session keeps features by thread.
        self._mine = threading.local()
        self._workers = ThreadPoolExecutor(workers, "worker", self._equip_worker)
        self._stopping = False

    def _equip_worker(self) -> None:
        self._mine.pipe = with_own_scheduler(self._pipe)

    def plan(self, name: str) -> Plan | None:
        """The plan called `name`, read again if its file was replaced; None for a full run."""
        if name == FULL:
            return None
        if name not in self._files:
            raise RequestError(404, f"unknown plan {name[:80]!r}; known: {', '.join([*self._files, FULL])}")
        return self._cache.get(self._files[name])

    def plans(self) -> dict[str, dict[str, int]]:
        """Computed steps and all steps of every plan."""
        found = {name: steps_of(self._cache.get(file)) for name, file in self._files.items()}
        found[FULL] = (self._full_steps, self._full_steps)
        return {name: {"computed": computed, "steps": steps} for name, (computed, steps) in found.items()}

    def draw(self, prompt: str, plan: str | None = None, seed: int = 0) -> tuple[bytes, dict[str, str]]:
        """A PNG and headers that say what it took. Waits for a free worker."""
        chosen = self.plan(plan if plan is not None else next(iter(self._files)))
        try:
            return self._workers.submit(self._draw, prompt, chosen, seed).result()
        except (CancelledError, RuntimeError) as error:
            if self._stopping:
                raise RequestError(503, "the server is stopping") from error
            raise

    def _draw(self, prompt: str, plan: Plan | None, seed: int) -> tuple[bytes, dict[str, str]]:
        pipe, began = self._mine.pipe, time.perf_counter()
        computed, steps = steps_of(plan) if plan is not None else (self._full_steps, self._full_steps)
        with self._session.following(plan), self._session.at(pipe=pipe):
            generator = torch.Generator().manual_seed(seed)
            image = pipe(prompt, num_inference_steps=steps, generator=generator).images[0]
        png = io.BytesIO()
        image.save(png, "PNG")
        seconds = time.perf_counter() - began
        return png.getvalue(), {"X-Hyca-Steps": f"{computed} of {steps}", "X-Seconds": f"{seconds:.3f}"}

    def close(self) -> None:
        """Finish the pictures begun, refuse those that wait, restore the network."""
        self._stopping = True
        self._workers.shutdown(cancel_futures=True)
        self._session.remove()


def with_own_scheduler(pipe: Any) -> Any:
    """A pipeline of the same networks with a scheduler of its own, which counts the steps of one picture."""
    twin = type(pipe)(
        transformer=pipe.transformer,
        text_encoder=pipe.text_encoder,
        scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config),
        image_size=pipe.config.image_size,
    )
    twin.set_progress_bar_config(disable=True)
    return twin


def steps_of(plan: Plan) -> tuple[int, int]:
    """Computed steps and all steps. A run on its plan takes exactly these, any other fails."""
    schedule = plan.sections[0].schedule
    return len(schedule.computed_steps), schedule.num_steps


class Handler(BaseHTTPRequestHandler):
    """Turns a request into a call of the studio, and whatever goes wrong into one line."""

    server: Server
    timeout = 10  # a silent client shall not hold up the end of the server

    def do_GET(self) -> None:
        """Answer, always."""
        try:
            status, kind, body, headers = self._route()
        except RequestError as error:
            status, kind, body, headers = error.status, "text/plain", str(error).encode(), {}
        except Exception as error:
            reason = str(error) if isinstance(error, HycaError) else f"{type(error).__name__}: {error}"
            status, kind, body, headers = 500, "text/plain", " ".join(reason.split()).encode(), {}
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        with suppress(OSError):  # the client may be gone
            self.end_headers()
            self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def _route(self) -> tuple[int, str, bytes, dict[str, str]]:
        url, studio = urlsplit(self.path), self.server.studio
        if url.path == "/generate":
            png, headers = studio.draw(**parameters(url.query, self._form()))
            return 200, "image/png", png, headers
        if url.path == "/plans":
            return 200, "application/json", json.dumps(studio.plans()).encode(), {}
        if url.path == "/healthz":
            return 200, "text/plain", b"ok", {}
        raise RequestError(404, "unknown address; known: /generate, /plans, /healthz")

    def _form(self) -> str:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            raise RequestError(400, f"Content-Length: expected at most {MAX_BODY}, got {length[:40]!r}")
        return self.rfile.read(int(length)).decode("ascii", "replace")


def parameters(*forms: str) -> dict[str, Any]:
    """Arguments of `Studio.draw` from form-encoded text, checked."""
    pairs = [pair for form in forms for pair in parse_qsl(form, keep_blank_values=True)]
    given: dict[str, Any] = dict(pairs)
    unknown = sorted(given.keys() - {"prompt", "plan", "seed"})
    if unknown or len(given) < len(pairs):
        raise RequestError(400, f"expected prompt, plan and seed, each once; got {', '.join(n for n, _ in pairs)[:80]}")
    if not 0 < len(given.get("prompt", "").strip()) <= MAX_PROMPT:
        raise RequestError(400, f"prompt: expected 1 to {MAX_PROMPT} characters")
    seed = given.get("seed", "0")
    if not (seed.isascii() and seed.isdecimal() and len(seed) < 20 and int(seed) <= MAX_SEED):
        raise RequestError(400, f"seed: expected a whole number from 0 to {MAX_SEED}, got {seed[:40]!r}")
    return given | {"seed": int(seed)}


class Server(ThreadingHTTPServer):
    """One thread for each connection, which waits for a worker."""

    daemon_threads = False  # closing waits for the last answer
    request_queue_size = 128
    studio: Studio


def named_file(text: str) -> tuple[str, str]:
    """``name=path``, as argparse has it."""
    name, _, path = text.partition("=")
    if not name or not path or name == FULL:
        raise argparse.ArgumentTypeError(f"expected NAME=PATH with a name other than {FULL!r}, got {text!r}")
    return name, path


def main() -> int:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve pictures over HTTP, each by the plan its request names.")
    parser.add_argument("--plan", action="append", required=True, type=named_file, metavar="NAME=PATH")
    parser.add_argument("--model", default="demo", help="demo, or package.module:factory")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--workers", type=int, default=2, help="pictures drawn side by side")
    options = parser.parse_args()
    try:
        studio = Studio(load_pipeline(options.model), dict(options.plan), options.workers)
    except HycaError as error:
        print(error, file=sys.stderr)
        return 2
    with Server((options.host, options.port), Handler) as server:
        server.studio = studio

        def stop(number: int, _: object) -> None:
            """End `serve_forever` between two requests; raising here could hit one that is being accepted."""
            signal.signal(number, signal.SIG_DFL)  # the second signal kills
            threading.Thread(target=server.shutdown).start()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        print(f"listening on http://{options.host}:{server.server_port}", flush=True)
        server.serve_forever()
        studio.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

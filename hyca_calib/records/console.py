"""What a person sees while work goes on, and what a machine reads instead: progress, news, errors of one line."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hyca_runtime.errors import HycaError

_console = Console(stderr=True, highlight=False)
"""Progress and errors; results go to standard output."""

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
EVERY_S = 1.0
"""How often progress is logged at most, of each stage."""
LINE_EVERY_S = 10.0
"""How often progress is a line for people at most, where there is no terminal for a bar."""

OF_OTHERS = (
    "torchao",
    "torch.utils._pytree",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "matplotlib.font_manager",
    "transformers.utils.import_utils",
)
"""Loggers that tell of kernels and parts that are not there, in the middle of every command; errors are passed on."""


class Tell(Protocol):
    """Told what share of a stage is done, and what else there is to say."""

    def __call__(self, share: float, news: str = "", /) -> None: ...


_json = False
Listener = Callable[[str | None], None]
"""Told the stage that goes on from now, None if none does."""
_listeners = list[Listener]()


def log_json() -> None:
    """From now on every event is a line of JSON on standard error, and no bar is drawn."""
    global _json  # noqa: PLW0603  (one process, one log)
    _json = True


def quiet_others() -> None:
    """From now on these loggers tell of errors alone."""
    for name in OF_OTHERS:
        logging.getLogger(name).addFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def say(text: str, **facts: Any) -> None:
    """News in one line; `facts` are only for machines."""
    if _json:
        _log("news", text=text, **facts)
    else:
        _console.print(text, soft_wrap=True, markup=False)


def present(table: Table) -> None:
    """A table for people; machines have read its numbers elsewhere."""
    if not _json:
        _console.print(table)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors that HyCa raises on purpose, and of files that cannot be used, become one line and exit code 2."""
    try:
        yield
    except HycaError as error:
        _fail(type(error).__name__, str(error))
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        _fail(type(error).__name__, f"{error.filename}: {error.strerror}; check the path and what may be done there")
    except KeyboardInterrupt:
        say("interrupted; the same command again goes on")
        sys.exit(EXIT_INTERRUPTED)


def _fail(kind: str, text: str) -> NoReturn:
    if _json:
        _log("error", kind=kind, text=text)
    else:
        _console.print(f"[bold red]error:[/] {kind}: ", end="")
        _console.print(text, markup=False, soft_wrap=True)
    sys.exit(EXIT_BAD_INPUT)


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Stages inside are told to a listener, too."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _goes_on(stage: str | None) -> None:
    for listener in _listeners:
        listener(stage)


@contextlib.contextmanager
def counting(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar over `total` items, if that is known; yields a function that advances it."""
    _goes_on(title)
    try:
        with _counting(title, total) as advance:
            yield advance
    finally:
        _goes_on(None)


@contextlib.contextmanager
def _counting(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    if _json:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            _log("progress", stage=title, done=done, total=total)

        yield advance
        return
    if not _console.is_terminal:
        lines, so_far = _Lines(), 0

        def count(more: int) -> None:
            nonlocal so_far
            so_far += more
            lines.tell(title, so_far / total if total else None, f"{so_far} of {total}" if total else str(so_far))

        yield count
        return
    columns = MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(TextColumn("{task.description:<10}"), BarColumn(), *columns, console=_console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)


@contextlib.contextmanager
def stages(names: Sequence[str] = ()) -> Iterator[Callable[[str, float, str], None]]:
    """A bar for each of these stages, and for every other that is heard of; yields ``(stage, share done, news)``."""
    with _stages(names) as show:

        def tell(stage: str, share: float, news: str) -> None:
            _goes_on(stage)
            show(stage, share, news)

        try:
            yield tell
        finally:
            _goes_on(None)


@contextlib.contextmanager
def stage(name: str) -> Iterator[Tell]:
    """A bar for one stage."""
    with stages((name,)) as tell:

        def of_it(share: float, news: str = "", /) -> None:
            tell(name, share, news)

        yield of_it


@contextlib.contextmanager
def _stages(names: Sequence[str]) -> Iterator[Callable[[str, float, str], None]]:
    if _json:
        told: dict[str, float] = {}

        def log(stage: str, share: float, news: str) -> None:
            now = time.monotonic()
            if share >= 1 or now - told.get(stage, -EVERY_S) >= EVERY_S:
                told[stage] = now
                _log("progress", stage=stage, share=round(min(1.0, share), 4), text=news)

        yield log
        return
    if not _console.is_terminal:
        yield _Lines().tell
        return
    columns = TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("{task.fields[news]}")
    with Progress(TextColumn("{task.description:<10}"), BarColumn(), *columns, console=_console) as progress:
        tasks = {name: progress.add_task(name, total=1.0, news="", start=False) for name in names}

        def tell(stage: str, share: float, news: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0, news="", start=False)
            progress.start_task(tasks[stage])
            progress.update(tasks[stage], completed=min(1.0, share), news=news)
            if share >= 1:
                progress.stop_task(tasks[stage])

        yield tell


class _Lines:
    """Progress where no bar can be drawn, as in a log: a line now and then, and one for what a stage ends with."""

    def __init__(self) -> None:
        self._begun = dict[str, float]()
        self._ends = dict[str, str]()
        self._latest = time.monotonic()

    def tell(self, stage: str, share: float | None, news: str) -> None:
        """A line if it is time for one; the share may be unknown."""
        now = time.monotonic()
        begun = self._begun.setdefault(stage, now)
        done = -1.0 if share is None else min(1.0, share)
        ends = done == 1 and self._ends.get(stage) != news
        if ends:
            self._ends[stage] = news
        if ends or (done < 1 and now - self._latest >= LINE_EVERY_S):
            self._latest = now
            told = "    " if share is None else f"{100 * done:3.0f}%"
            say(f"{stage:<10} {told}  {timedelta(seconds=int(now - begun))}  {news}".rstrip())


def human_bytes(size: float) -> str:
    """A size in words for people: ``1536`` is ``"1.5 KiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _log(event: str, **facts: Any) -> None:
    """One line; what is no JSON is told as text."""
    line = {"time": round(time.time(), 3), "event": event, **facts}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)

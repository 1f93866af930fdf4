"""What a baseline does on a model, seen by running it."""

import importlib
import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from hyca_calib.pipelines.classes import quiet
from hyca_runtime.attach.points import find_block_lists
from studies.zoo.base import MODELS, TinyModel
from studies.zoo.baselines.applied import Applied, Call, Outputs, Way, bare_outputs
from studies.zoo.baselines.methods import BASELINES
from studies.zoo.check import STEPS, run_of

CLOSE = 1e-3
"""Largest relative error that is taken for rounding, where every call of a run is the same."""
CUT = 3
"""Calls of a run before an exception ends it."""


@dataclass(frozen=True)
class BaselineVerdict:
    """What one baseline does on one model.

    Attributes:
        verdict: "works", "does nothing" (no layer of any block was spared), "refused: ..." (an error that
            says so when it is switched on), "crashes: ...", "wrong: ..." with every fault seen, or
            "not installed".
        detail: which share of the layers within blocks ran on each step, and what was logged.
        notes: how the baseline was applied, where that takes more than the usual call.
    """

    model: str
    baseline: str
    verdict: str
    detail: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What came of one way to apply a baseline.

    Attributes:
        broken: what went wrong in a single run; empty if nothing.
        faults: what went wrong after it.
        detail: what else a reader of the table may want to know.
    """

    broken: str = ""
    faults: list[str] = field(default_factory=list)
    detail: list[str] = field(default_factory=list)


def baseline_matrix(names: Sequence[str] = (), baselines: Sequence[str] = ()) -> list[BaselineVerdict]:
    """Every baseline on every model, each time on freshly built networks; exceptions become verdicts.

    Args:
        names: of `MODELS`; all by default.
        baselines: of `BASELINES`; all by default.
    """
    names, baselines = names or list(MODELS), baselines or list(BASELINES)
    rows = {}
    for baseline in baselines:  # outermost: to import a package may change what follows
        for name in names:
            rows[name, baseline] = _judge(MODELS[name], baseline)
    return [rows[name, baseline] for name in names for baseline in baselines]


def _judge(tiny: TinyModel, name: str) -> BaselineVerdict:
    baseline = BASELINES[name]
    if importlib.util.find_spec(baseline.package) is None:
        return BaselineVerdict(tiny.name, name, "not installed")
    tried: list[tuple[Way, Outcome]] = []
    with torch.no_grad(), quiet(), _overheard() as said:
        for way in baseline.ways(tiny.build()):
            said.clear()
            _forget_signatures()
            outcome = _try(tiny, way)
            outcome.detail += [text for text in (way.setting, *(f"logs: {line}" for line in said[:1])) if text]
            tried.append((way, outcome))
            if not outcome.broken:
                break
    way, best = tried[-1] if not tried[-1][1].broken else tried[0]
    notes = list(way.notes)
    if best.broken:
        others = [(w, o) for w, o in tried if w.notes != way.notes and o.broken != best.broken]
        notes += [f"{', '.join(w.notes)}: {o.broken}" for w, o in others]
    verdict = best.broken or (f"wrong: {'; '.join(best.faults)}" if best.faults else "works")
    return BaselineVerdict(tiny.name, name, verdict, "; ".join(best.detail), tuple(notes))


def _try(tiny: TinyModel, way: Way) -> Outcome:
    outcome, calls, module = Outcome(), run_of(tiny), tiny.build()
    with _counted_layers(module) as count:
        marks: list[int] = []
        full = bare_outputs(module, _marked(calls, count, marks))
        whole = _spent(marks, count)
        try:
            applied = way.apply(module, calls)
        except Exception as error:  # whatever it raises is the verdict
            said_so = isinstance(error, ValueError | TypeError | NotImplementedError | AssertionError)
            outcome.broken = f"{'refused' if said_so else 'crashes when switched on'}: {_line(error)}"
            if _differs(lambda: bare_outputs(module, calls), full):
                outcome.detail.append("the network does not run as before")
            return outcome
        try:
            marks.clear()
            found = applied.run(_marked(calls, count, marks))
            spent = _spent(marks, count)
            outcome.broken = _output_fault(tiny, way, found, full)
        except Exception as error:
            outcome.broken = f"crashes: {_line(error)}"
            return outcome
    shares = " ".join(f"{100 * layers / of:.0f}" for layers, of in zip(spent, whole, strict=True))
    outcome.detail.append(f"layers run by step: {shares} %")
    if not outcome.broken and all(layers >= of for layers, of in zip(spent, whole, strict=True)):
        outcome.broken = "does nothing"
    if not outcome.broken:
        outcome.faults = _state_faults(tiny, way, full)
    return outcome


def _output_fault(tiny: TinyModel, way: Way, found: Outputs, full: Outputs) -> str:
    """Shapes and finiteness of a run's outputs; their values in a run whose calls do not differ."""
    if [[t.shape for t in step] for step in found] != [[t.shape for t in step] for step in full]:
        return "wrong: shapes of the output"
    if not all(t.isfinite().all() for step in found for t in step):
        return "wrong: output not finite"
    calls, module = run_of(tiny)[:1] * STEPS, tiny.build()
    exact = bare_outputs(module, calls)
    applied = way.apply(module, run_of(tiny))
    found = (applied.steady or applied.run)(calls)
    off = [
        max(((a - b).norm() / b.norm()).item() for a, b in zip(*pair, strict=True))
        for pair in zip(found, exact, strict=True)
    ]
    where = "from the first step on, which is computed" if off[0] > CLOSE else "on spared steps"
    return f"wrong: output off by {100 * max(off):.0f} % when all calls are equal, {where}" if max(off) > CLOSE else ""


def _state_faults(tiny: TinyModel, way: Way, full: Outputs) -> list[str]:
    """What a run leaves behind: each check on a network of its own, against one that never ran before."""
    first, other, pair = run_of(tiny), run_of(tiny, seed=1), run_of(tiny, batch=2, seed=1)

    def fresh() -> tuple[nn.Module, Applied]:
        module = tiny.build()
        return module, way.apply(module, first)

    def after_whole_run(calls: Sequence[Call]) -> Outputs:
        _, applied = fresh()
        applied.run(first)
        return applied.run(calls)

    def after_cut_run(calls: Sequence[Call]) -> Outputs:
        _, applied = fresh()
        with suppress(_CutOffError):
            applied.run(_cut(first))
        return applied.run(calls)

    def after_removal() -> Outputs:
        module, applied = fresh()
        applied.run(first)
        applied.remove()
        return bare_outputs(module, first)

    checks: list[tuple[str, Callable[[], Outputs], Callable[[], Outputs]]] = [
        ("next run", lambda: after_whole_run(other), lambda: fresh()[1].run(other)),
        ("next run of batch 2", lambda: after_whole_run(pair), lambda: fresh()[1].run(pair)),
        ("run after a cut-off run", lambda: after_cut_run(other), lambda: fresh()[1].run(other)),
        ("batch 2 after a cut-off run", lambda: after_cut_run(pair), lambda: fresh()[1].run(pair)),
        ("switched off", after_removal, lambda: full),
    ]
    faults = []
    for name, found, expected in checks:
        try:
            reference = expected()
        except Exception as error:
            faults.append(f"{name}: even alone {_line(error)}")
            continue
        fault = _differs(found, reference)
        faults += [f"{name}: {fault}"] if fault else []
    return faults


def _differs(found: Callable[[], Outputs], expected: Outputs) -> str:
    try:
        outputs = found()
    except Exception as error:
        return _line(error)
    pairs = [pair for a, b in zip(outputs, expected, strict=True) for pair in zip(a, b, strict=True)]
    return "" if all(torch.equal(a, b) for a, b in pairs) else "other output"


class _CutOffError(Exception):
    """Ends a run early, as a cancelled request does."""


def _cut(calls: Sequence[Call]) -> Iterator[Call]:
    yield from calls[:CUT]
    raise _CutOffError


def _marked(calls: Sequence[Call], count: list[int], marks: list[int]) -> Iterator[Call]:
    """`calls`, noting the count before each."""
    for call in calls:
        marks.append(count[0])
        yield call


def _spent(marks: list[int], count: list[int]) -> list[int]:
    return [after - before for before, after in pairwise([*marks, count[0]])]


def _line(error: Exception) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", str(error).strip())
    return f"{type(error).__name__}: {text.splitlines()[0][:160] if text else ''}".rstrip(": ")


@contextmanager
def _counted_layers(module: nn.Module) -> Iterator[list[int]]:
    """How many modules without children, within blocks, were called."""
    count = [0]

    def counting(*_: Any) -> None:
        count[0] += 1

    leaves = {
        layer for place in find_block_lists(module) for layer in place.module.modules() if not list(layer.children())
    }
    with ExitStack() as stack:
        for layer in leaves:
            stack.enter_context(layer.register_forward_pre_hook(counting))
        yield count


class _Listener(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("diffusers.hooks"):
            self.said.append(record.getMessage().splitlines()[0][:160])


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """The warnings that the caches of diffusers log; nothing of diffusers is printed then."""
    listener, logger = _Listener(logging.WARNING), logging.getLogger("diffusers")
    before = logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [listener], False
    try:
        yield listener.said
    finally:
        logger.handlers, logger.propagate = before


def _forget_signatures() -> None:
    """diffusers keeps what it learnt of a class of blocks, from failed calls too: the next error would be another."""
    from diffusers.hooks import _helpers

    for metadata in vars(_helpers.TransformerBlockRegistry)["_registry"].values():
        vars(metadata)["_cached_parameter_indices"] = None

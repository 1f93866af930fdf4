"""What other caches do on each model of the zoo, seen by running them.

``python -m hyca_calib.zoo.peers [MODEL ...]`` prints the table of ``docs/peers.md``. The runtime of
this project takes the same checks, as one more column.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.zoo.base import MODELS, TinyModel, quiet
from hyca_calib.zoo.check import COMPUTED, STEPS, hand_plan, steady, tensors_in
from hyca_runtime import apply_plan
from hyca_runtime.attach.block_io import block_io
from hyca_runtime.attach.points import Place, find_block_lists
from hyca_runtime.point import CachePoint

__all__ = ["PEERS", "PeerVerdict", "main", "peer_matrix", "to_markdown"]

CLOSE = 1e-3
"""Largest relative error that is taken for rounding when every call of a run is the same."""

CUT = 3
"""Calls of a run before it is cut off by an exception."""

Calls = Iterable[Mapping[str, Any]]
Outputs = list[list[Tensor]]


@dataclass(frozen=True)
class PeerVerdict:
    """What one peer does on one model.

    Attributes:
        verdict: "works", "does nothing" (no layer of any block was spared), "refused: ..." (a clear error
            when it is switched on), "crashes: ...", "wrong: ..." with every fault seen, or "not installed".
        detail: how it was applied where that takes more than the usual call, and what was spared.
    """

    model: str
    peer: str
    verdict: str
    detail: str = ""


@dataclass(frozen=True)
class Applied:
    """A peer on one network.

    Attributes:
        run: make the calls of one run as a pipeline does, with what it does before, around and after them.
        remove: switch the peer off again.
        steady: `run` for calls that are all the same, where a peer has to be told that they are a run.
    """

    run: Callable[[Calls], Outputs]
    remove: Callable[[], None]
    steady: Callable[[Calls], Outputs] | None = None


@dataclass(frozen=True)
class Way:
    """One way to apply a peer; the note says what a user must know or write for it."""

    note: str
    apply: Callable[[nn.Module, Sequence[Mapping[str, Any]]], Applied]


@dataclass(frozen=True)
class Peer:
    """A method with its settings, which let it act on at least every other step.

    Attributes:
        ways: ways to apply it to a network, tried in order until one gets through a run.
    """

    settings: str
    ways: Callable[[nn.Module], list[Way]]
    package: str = "diffusers"


@dataclass
class _Outcome:
    """Of one way: what went wrong in a single run, and which state outlives a run."""

    plain: str = ""
    faults: list[str] = field(default_factory=list)
    detail: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return self.plain or (f"wrong: {'; '.join(self.faults)}" if self.faults else "works")


def peer_matrix(names: Sequence[str] = (), peers: Sequence[str] = ()) -> list[PeerVerdict]:
    """Every peer on every model, each on freshly built networks; exceptions become verdicts.

    Args:
        names: of `MODELS`; all by default.
        peers: of `PEERS`; all by default.
    """
    rows = {}
    for peer in peers or PEERS:  # the outer loop, for importing a package may change what the next one does
        for name in names or MODELS:
            rows[name, peer] = _judge(MODELS[name], peer)
    return [rows[name, peer] for name in names or MODELS for peer in peers or PEERS]


def _judge(tiny: TinyModel, name: str) -> PeerVerdict:
    peer = PEERS[name]
    if importlib.util.find_spec(peer.package) is None:
        return PeerVerdict(tiny.name, name, "not installed")
    tried: list[tuple[Way, _Outcome]] = []
    with torch.no_grad(), quiet(), _overheard() as said:
        for way in peer.ways(tiny.build()):
            said.clear()
            outcome = _try(tiny, way)
            outcome.detail += [way.note] * bool(way.note) + [f"logged: {line}" for line in said[:1]]
            tried.append((way, outcome))
            if not outcome.plain:
                break
    outcome = next((outcome for _, outcome in tried if not outcome.plain), tried[0][1])
    return PeerVerdict(tiny.name, name, outcome.verdict, "; ".join(outcome.detail))


def _try(tiny: TinyModel, way: Way) -> _Outcome:
    outcome = _Outcome()
    first, module = _calls(tiny), tiny.build()
    full = _bare(module, first)
    with _counted_layers(module) as count:
        _bare(module, first[:1])
        whole = count[0]
        try:
            applied = way.apply(module, first)
        except Exception as error:
            clear = isinstance(error, ValueError | TypeError | NotImplementedError | AssertionError)
            outcome.plain = f"{'refused' if clear else 'crashes when switched on'}: {_line(error)}"
            outcome.detail += [] if _same(lambda: _bare(module, first), full) else ["and leaves the network changed"]
            return outcome
        marks: list[int] = []
        try:
            found = applied.run(_marking(first, count, marks))
        except Exception as error:
            outcome.plain = f"crashes: {_line(error)}"
            return outcome
        spent = [b - a for a, b in pairwise([*marks, count[0]])]
    outcome.detail.append(f"layers run by step: {' '.join(f'{100 * calls / whole:.0f}' for calls in spent)} %")
    outcome.plain = _plain(tiny, way, found, full) or ("does nothing" if min(spent) >= whole else "")
    if not outcome.plain:
        outcome.faults = _state_faults(tiny, way, full)
    return outcome


def _plain(tiny: TinyModel, way: Way, found: Outputs, full: Outputs) -> str:
    """What is wrong with the outputs of a single run: their shapes, their values where nothing changes with time."""
    if [[t.shape for t in step] for step in found] != [[t.shape for t in step] for step in full]:
        return "wrong: shapes of the output"
    if not all(t.isfinite().all() for step in found for t in step):
        return "wrong: output not finite"
    call = _calls(tiny)[:1] * STEPS
    module = tiny.build()
    exact = _bare(module, call)
    applied = way.apply(module, call if False else _calls(tiny))
    try:
        found = (applied.steady or applied.run)(call)
    except Exception as error:
        return f"crashes on equal calls: {_line(error)}"
    error = max(
        ((a - b).norm() / b.norm()).item() for s, t in zip(found, exact, strict=True) for a, b in zip(s, t, strict=True)
    )
    return "" if error < CLOSE else f"wrong: output off by {100 * error:.0f} % where all calls are equal"

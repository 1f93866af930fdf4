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
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.zoo.base import MODELS, TinyModel, quiet
from hyca_calib.zoo.check import STEPS, hand_plan, steady, tensors_in
from hyca_runtime import apply_plan
from hyca_runtime.attach.block_io import block_io
from hyca_runtime.attach.points import Place, find_block_lists
from hyca_runtime.point import CachePoint

__all__ = ["PEERS", "PeerVerdict", "main", "peer_matrix", "to_markdown"]

CLOSE = 1e-3
"""Largest relative error that is taken for rounding, where every call of a run is the same."""

CUT = 3
"""Calls of a run before an exception ends it."""

COMPUTED = (0, 1, 3, 5)
"""Steps that this project's runtime computes, as the others do with an interval of 2 after two steps."""

Call = Mapping[str, Any]
Outputs = list[list[Tensor]]


@dataclass(frozen=True)
class PeerVerdict:
    """What one peer does on one model.

    Attributes:
        verdict: "works", "does nothing" (no layer of any block was spared), "refused: ..." (an error that
            says so when it is switched on), "crashes: ...", "wrong: ..." with every fault seen, or
            "not installed".
        detail: which share of the layers within blocks ran on each step, and what was logged.
        notes: how the peer was applied, where that takes more than the usual call.
    """

    model: str
    peer: str
    verdict: str
    detail: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Applied:
    """A peer on one network.

    Attributes:
        run: make the calls of one run as a pipeline does, with all it does before, around and after them.
        remove: switch the peer off.
        steady: `run` for calls that do not differ, where a peer cannot tell a run from them.
    """

    run: Callable[[Iterable[Call]], Outputs]
    remove: Callable[[], None]
    steady: Callable[[Iterable[Call]], Outputs] | None = None


@dataclass(frozen=True)
class Way:
    """One way to apply a peer.

    Attributes:
        notes: what a user must write for it besides the usual call.
        setting: where it differs by network.
    """

    apply: Callable[[nn.Module, Sequence[Call]], Applied]
    notes: tuple[str, ...] = ()
    setting: str = ""


@dataclass(frozen=True)
class Peer:
    """A method and settings with which it can act on every other step at least.

    Attributes:
        ways: to apply it to a network, tried in order until one gets through a single run.
    """

    settings: str
    ways: Callable[[nn.Module], list[Way]]
    package: str = "diffusers"


@dataclass
class Outcome:
    """Of one way.

    Attributes:
        broken: what went wrong in a single run; empty if nothing.
        faults: what went wrong after it.
    """

    broken: str = ""
    faults: list[str] = field(default_factory=list)
    detail: list[str] = field(default_factory=list)


def peer_matrix(names: Sequence[str] = (), peers: Sequence[str] = ()) -> list[PeerVerdict]:
    """Every peer on every model, each time on freshly built networks; exceptions become verdicts.

    Args:
        names: of `MODELS`; all by default.
        peers: of `PEERS`; all by default.
    """
    names, peers = names or list(MODELS), peers or list(PEERS)
    rows = {}
    for peer in peers:  # outermost: to import a package may change what follows
        for name in names:
            rows[name, peer] = _judge(MODELS[name], peer)
    return [rows[name, peer] for name in names for peer in peers]


def _judge(tiny: TinyModel, name: str) -> PeerVerdict:
    peer = PEERS[name]
    if importlib.util.find_spec(peer.package) is None:
        return PeerVerdict(tiny.name, name, "not installed")
    tried: list[tuple[Way, Outcome]] = []
    with torch.no_grad(), quiet(), _overheard() as said:
        for way in peer.ways(tiny.build()):
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
    return PeerVerdict(tiny.name, name, verdict, "; ".join(best.detail), tuple(notes))


def _try(tiny: TinyModel, way: Way) -> Outcome:
    outcome, calls, module = Outcome(), _run(tiny), tiny.build()
    with _counted_layers(module) as count:
        marks: list[int] = []
        full = _bare(module, _marked(calls, count, marks))
        whole = _spent(marks, count)
        try:
            applied = way.apply(module, calls)
        except Exception as error:  # whatever it raises is the verdict
            said_so = isinstance(error, ValueError | TypeError | NotImplementedError | AssertionError)
            outcome.broken = f"{'refused' if said_so else 'crashes when switched on'}: {_line(error)}"
            if _differs(lambda: _bare(module, calls), full):
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
    calls, module = _run(tiny)[:1] * STEPS, tiny.build()
    exact = _bare(module, calls)
    applied = way.apply(module, _run(tiny))
    found = (applied.steady or applied.run)(calls)
    off = [
        max(((a - b).norm() / b.norm()).item() for a, b in zip(*pair, strict=True))
        for pair in zip(found, exact, strict=True)
    ]
    where = "from the first step on, which is computed" if off[0] > CLOSE else "on spared steps"
    return f"wrong: output off by {100 * max(off):.0f} % when all calls are equal, {where}" if max(off) > CLOSE else ""


def _state_faults(tiny: TinyModel, way: Way, full: Outputs) -> list[str]:
    """What a run leaves behind: each check on a network of its own, against one that never ran before."""
    first, other, pair = _run(tiny), _run(tiny, seed=1), _run(tiny, batch=2, seed=1)

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
        return _bare(module, first)

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


def _run(tiny: TinyModel, batch: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """The calls of one run; what does not change with time is one object, as in a pipeline."""
    calls = [tiny.call(batch, 1 - step / STEPS, seed) for step in range(STEPS)]
    return [calls[0], *({name: steady(calls[0][name], value) for name, value in call.items()} for call in calls[1:])]


def _bare(module: nn.Module, calls: Iterable[Call]) -> Outputs:
    return [tensors_in(module(**call)) for call in calls]


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
    handles = [layer.register_forward_pre_hook(counting) for layer in leaves]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


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


# How a pipeline calls its network.


def _pipeline(module: nn.Module, around: Callable[[int], AbstractContextManager[Any]]) -> Any:
    """A diffusers pipeline of which a call makes the calls of one run and nothing else.

    Its class is its own, for cache-dit changes the class, and is named for the network, for by that name
    cache-dit finds its adapter.
    """
    from diffusers import DiffusionPipeline

    def initialise(self: Any, transformer: nn.Module) -> None:
        DiffusionPipeline.__init__(self)
        self.register_modules(transformer=transformer)

    def call(self: Any, calls: Iterable[Call]) -> Outputs:
        found = []
        for step, call in enumerate(calls):
            with around(step):
                found.append(tensors_in(self.transformer(**call)))
        self.maybe_free_model_hooks()  # resets the caches of diffusers, as at the end of its pipelines
        return found

    stem = re.sub(r"(Transformer)?([123]D)?(Model)?$", "", type(module).__name__)
    name = f"{PIPELINE_STEMS.get(stem, stem)}Pipeline"
    kind: Any = type(name, (DiffusionPipeline,), {"__init__": initialise, "__call__": call})
    return kind(module)


PIPELINE_STEMS = {"SD3": "StableDiffusion3"}
"""How pipelines are named that are not named for their network."""


def _named_context(module: nn.Module) -> AbstractContextManager[Any]:
    """The context that diffusers pipelines enter around a call, where the network has it."""
    named = getattr(module, "cache_context", None)
    return named("cond") if named is not None else nullcontext()


# The caches of diffusers.


def _diffusers(
    module: nn.Module, config: Callable[[], Any], function: str, notes: tuple[str, ...] = (), setting: str = ""
) -> list[Way]:
    """By `enable_cache`, as pipelines are documented; by the public function on networks without it."""

    def enable(module: nn.Module, _: Sequence[Call]) -> Applied:
        network: Any = module
        network.enable_cache(config())
        return Applied(_pipeline(module, lambda _: _named_context(module)), network.disable_cache)

    def call(module: nn.Module, _: Sequence[Call]) -> Applied:
        from diffusers import hooks
        from diffusers.hooks.hooks import CacheContext, _set_cache_context

        registry = hooks.HookRegistry.check_if_exists_or_initialize(module)
        getattr(hooks, function)(module, config())
        pipe = _pipeline(module, lambda _: nullcontext())

        def run(calls: Iterable[Call]) -> Outputs:
            _set_cache_context(module, CacheContext("cond"))
            found: Outputs = pipe(calls)
            registry.reset_stateful_hooks(recurse=True)
            return found

        def remove() -> None:
            registries: list[Any] = [
                vars(m)["_diffusers_hook"] for m in module.modules() if "_diffusers_hook" in vars(m)
            ]
            for name in {name for each in registries for name in each.hooks}:
                registry.remove_hook(name, recurse=True)

        return Applied(run, remove)

    if hasattr(module, "enable_cache"):
        return [Way(enable, notes, setting)]
    return [Way(call, (*notes, "no `enable_cache`: context, reset and removal through internals of hooks"), setting)]


def _first_block(module: nn.Module) -> list[Way]:
    """Larger and larger thresholds: one that is too large mistakes another run's input for the next step."""
    from diffusers import FirstBlockCacheConfig

    def ways(threshold: float) -> list[Way]:
        return _diffusers(
            module,
            lambda: FirstBlockCacheConfig(threshold=threshold),
            "apply_first_block_cache",
            setting=f"threshold={threshold:g}",
        )

    return [way for threshold in THRESHOLDS for way in ways(threshold)]


THRESHOLDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Of FirstBlockCache; random weights change more from step to step than trained ones."""


def _mag(module: nn.Module) -> list[Way]:
    from diffusers import MagCacheConfig

    def config() -> Any:
        return MagCacheConfig(
            threshold=1.0, max_skip_steps=1, retention_ratio=0.33, num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS
        )

    return _diffusers(module, config, "apply_mag_cache")


def _taylor(module: nn.Module, notes: tuple[str, ...] = (), **options: Any) -> list[Way]:
    from diffusers import TaylorSeerCacheConfig

    def config() -> Any:
        return TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=torch.float32, **options
        )

    return _diffusers(module, config, "apply_taylorseer_cache", notes)


def _taylor_lite(module: nn.Module) -> list[Way]:
    return _taylor(module, use_lite_mode=True)


def _taylor_named(module: nn.Module) -> list[Way]:
    lists = [(place, list(place.module.children())) for place in find_block_lists(module)]
    every = [re.escape(f"{place.path}.{i}") for place, blocks in lists for i in range(len(blocks))]
    but_last = [re.escape(f"{place.path}.{i}") for place, blocks in lists for i in range(len(blocks) - 1)]
    return [
        *_taylor(module, cache_identifiers=every),
        *_taylor(module, ("every block named but the last of each list",), cache_identifiers=but_last),
    ]


# cache-dit.


def _cache_dit() -> Any:
    """The package, whose import and use print nothing then."""
    level = os.environ.get("CACHE_DIT_LOG_LEVEL")
    os.environ["CACHE_DIT_LOG_LEVEL"] = "critical"
    logging.disable(logging.CRITICAL)
    try:
        return importlib.import_module("cache_dit")
    finally:
        logging.disable(logging.NOTSET)
        if level is None:
            del os.environ["CACHE_DIT_LOG_LEVEL"]
        else:
            os.environ["CACHE_DIT_LOG_LEVEL"] = level


def _dual_block(module: nn.Module) -> list[Way]:
    return [
        _dual_block_way(_itself, {}),
        *(_dual_block_way(partial(_by_hand, lists), {}, _told(lists)) for lists in _candidates(module)),
    ]


def _dual_block_taylor(module: nn.Module) -> list[Way]:
    forecast = {"taylorseer_order": 1}
    no_text = {**forecast, "enable_encoder_calibrator": False}
    return [
        _dual_block_way(_itself, forecast),
        _dual_block_way(_itself, no_text, "enable_encoder_calibrator=False"),
        *(_dual_block_way(partial(_by_hand, lists), forecast, _told(lists)) for lists in _candidates(module)),
    ]


def _dual_block_way(target_of: Callable[[Any], Any], forecast: Mapping[str, Any], *notes: str) -> Way:
    cache_dit = _cache_dit()

    def apply(module: nn.Module, _: Sequence[Call]) -> Applied:
        pipe = _pipeline(module, lambda _: _named_context(module))
        target = target_of(pipe)
        cache_dit.enable_cache(
            target,
            cache_config=cache_dit.DBCacheConfig(
                Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=10.0, max_warmup_steps=2,
                max_continuous_cached_steps=1, num_inference_steps=STEPS, enable_separate_cfg=False,
            ),
            calibrator_config=cache_dit.TaylorSeerCalibratorConfig(**forecast) if forecast else None,
        )  # fmt: skip
        return Applied(pipe, lambda: cache_dit.disable_cache(target))

    return Way(apply, notes)


def _itself(pipe: Any) -> Any:
    """cache-dit looks up its own adapter then."""
    return pipe


def _by_hand(lists: Sequence[Place], pipe: Any) -> Any:
    """The adapter that a user writes for a network that cache-dit does not know."""
    cache_dit, network = _cache_dit(), pipe.transformer
    return cache_dit.BlockAdapter(
        pipe=pipe,
        transformer=network,
        blocks=[network.get_submodule(place.path) for place in lists],
        forward_pattern=[getattr(cache_dit.ForwardPattern, _pattern(place)) for place in lists],
        check_forward_pattern=False,
    )


def _told(lists: Sequence[Place]) -> str:
    return "BlockAdapter by hand: " + " and ".join(f"{place.path} {_pattern(place)}" for place in lists)


def _candidates(module: nn.Module) -> list[list[Place]]:
    """The lists of blocks that carry the latents: all together, then the last alone."""
    lists = [p for p in find_block_lists(module) if p.parent is module and not re.search("refiner|text|vace", p.name)]
    return [part for part in (lists, lists[-1:] if len(lists) > 1 else []) if part]


def _pattern(blocks: Place) -> str:
    """The pattern of a list of blocks by what they return."""
    returns = block_io(next(iter(blocks.module.children()))).returns
    if len(returns) == 1:
        return "Pattern_3"
    return "Pattern_1" if returns[0] == "encoder_hidden_states" else "Pattern_0"


# The runtime of this project.


def _own(_: nn.Module) -> list[Way]:
    def apply(module: nn.Module, calls: Sequence[Call]) -> Applied:
        plan = hand_plan(module, CachePoint(kind="trunk"), lambda: _bare(module, calls), lambda _: COMPUTED)
        session = apply_plan(module, plan, on_mismatch="error")

        @contextmanager
        def told(step: int) -> Iterator[None]:
            with _named_context(module), session.at(step=step):
                yield

        return Applied(_pipeline(module, lambda _: _named_context(module)), session.remove, _pipeline(module, told))

    return [Way(apply)]


PEERS: dict[str, Peer] = {
    "FirstBlockCache": Peer(f"threshold, the first of {THRESHOLDS} at which something is spared", _first_block),
    "MagCache": Peer(
        f"threshold=1, max_skip_steps=1, retention_ratio=0.33, num_inference_steps={STEPS}, mag_ratios all 1", _mag
    ),
    "TaylorSeer": Peer(
        "cache_interval=2, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=float32", _taylor
    ),
    "TaylorSeer lite": Peer("the same, use_lite_mode=True", _taylor_lite),
    "TaylorSeer blocks": Peer("the same, cache_identifiers that name every block", _taylor_named),
    "HyCa": Peer(f"point trunk, steps {COMPUTED} computed, linear forecast of the others", _own, "hyca_runtime"),
    "DBCache": Peer(
        "Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=10, max_warmup_steps=2, "
        f"max_continuous_cached_steps=1, num_inference_steps={STEPS}, enable_separate_cfg=False",
        _dual_block,
        "cache_dit",
    ),
    "DBCache + TaylorSeer": Peer(
        "the same, TaylorSeerCalibratorConfig(taylorseer_order=1)", _dual_block_taylor, "cache_dit"
    ),
}


def to_markdown(rows: Sequence[PeerVerdict]) -> str:
    """A table of one word per pair, the counts of those words, and the reasons behind them."""
    peers, models = list(dict.fromkeys(r.peer for r in rows)), list(dict.fromkeys(r.model for r in rows))
    words = {(r.model, r.peer): _word(r) + r" \*" * bool(r.notes) for r in rows}
    counts = {p: Counter(_word(r) for r in rows if r.peer == p) for p in peers}
    used = [word for word in WORDS if any(word in counted for counted in counts.values())]
    reasons = _grouped((_reason(r), r.peer, _named(r)) for r in rows if _word(r) not in FINE)
    notes = _grouped((note, r.peer, _short(r.model)) for r in rows for note in r.notes)
    lines = [
        *_table(["", *peers], [[word, *(str(counts[p][word]) for p in peers)] for word in used]),
        "",
        *_table(["Class", *peers], [[m, *(words.get((m, p), "") for p in peers)] for m in models]),
    ]
    if reasons:
        lines += ["", "## Reasons", "", *_table(["Verdict", "Peers", "Classes"], reasons)]
    if notes:
        lines += ["", r"## Marked \*", "", *_table(["What it took, or was tried in vain", "Peers", "Classes"], notes)]
    return "\n".join(lines)


WORDS = {
    "works": "steps are spared, outputs are right as far as these checks can tell, no state outlives a run",
    "works, leaks": "as before, but a run that an exception cut off changes the run after it",
    "nothing": "no error, and no layer of any block is spared",
    "refused": "an error that says so when it is switched on",
    "crashes": "an error of another kind then, or any error in a run",
    "wrong": "outputs that are off though every call of the run is the same, or other faults",
    "not installed": "the package is missing",
}

FINE = {"works", "works, leaks", "not installed"}


def _grouped(entries: Iterable[tuple[str, str, str]]) -> list[list[str]]:
    """Lines of text, peers and classes, from one entry for each of the three."""
    found: dict[str, dict[str, list[str]]] = {}
    for text, peer, model in entries:
        found.setdefault(text, {}).setdefault(model, []).append(peer)
    lines: dict[tuple[str, str], list[str]] = {}
    for text, by_model in found.items():
        for model, peers in by_model.items():
            lines.setdefault((text, ", ".join(peers)), []).append(model)
    return [[text, peers, ", ".join(models)] for (text, peers), models in lines.items()]


SHARE = re.compile(r"off by (\d+) %")


def _reason(row: PeerVerdict) -> str:
    """A verdict, without what differs from class to class."""
    text = re.sub(r"\b[A-Z]\w*(?:Block|Pipeline|Model|Transformer)\b", "...", SHARE.sub("off by N %", row.verdict))
    more = [part for part in row.detail.split("; ") if part and not part.startswith(("layers run", "threshold"))]
    return "; ".join([text, *more])


def _named(row: PeerVerdict) -> str:
    share = SHARE.search(row.verdict)
    return _short(row.model) + (f" ({share[1]} %)" if share else "")


def _word(row: PeerVerdict) -> str:
    kind = row.verdict.split(":")[0]
    if kind == "wrong" and all("cut-off" in fault for fault in row.verdict.removeprefix("wrong: ").split("; ")):
        return "works, leaks"
    return {"does nothing": "nothing", "crashes when switched on": "crashes"}.get(kind, kind)


def _short(model: str) -> str:
    return re.sub(r"(Transformer)?([123]D)?(Model)?$", "", model)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *cells]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print ``docs/peers.md``."""
    parser = argparse.ArgumentParser(prog="python -m hyca_calib.zoo.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="class of the zoo; default: all")
    parser.add_argument("--peer", action="append", default=[], choices=list(PEERS), help="default: all")
    options = parser.parse_args(arguments)
    command = " ".join([parser.prog, *options.names, *(f"--peer '{peer}'" for peer in options.peer)])
    sys.stdout.write(f"{_header(command)}\n\n{to_markdown(peer_matrix(options.names, options.peer))}\n")


def _header(command: str) -> str:
    packages = {"torch": "torch", "diffusers": "diffusers", "cache-dit": "cache_dit", "hyca": "hyca_calib"}
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name) if importlib.util.find_spec(module) else 'not installed'}"
        for name, module in packages.items()
    )
    return "\n".join(
        [
            "# Caches on every transformer class of the zoo",
            "",
            f"Made by `{command}` with {versions}, {date.today():%Y-%m}, on a CPU.",
            "",
            *HOW.format(steps=STEPS, cut=CUT, close=100 * CLOSE).strip().splitlines(),
            "",
            *_table(["Peer", "Settings"], [[name, peer.settings] for name, peer in PEERS.items()]),
            "",
            *_table(["Word", "Meaning"], list(WORDS.items())),
        ]
    )


HOW = """
Each class is a tiny model with random weights (`hyca_calib.zoo`), in eager mode. A run is {steps} calls of one
branch, without guidance: the same inputs, time running down. A stand-in for a pipeline makes them. It enters
`cache_context("cond")` where the network has it, which not all pipelines of diffusers do, and ends as they do,
with `maybe_free_model_hooks`. Settings are such that a cache must act; they say nothing about quality or speed.
The checks, each on a freshly built network:

1. It can be switched on, and a run gives finite outputs of the right shapes.
2. On some step fewer layers within blocks are called than in the full run.
3. If the {steps} calls do not differ at all, outputs agree with the full run's within {close:g} %.
4. After a whole run, a run with other inputs, of batch 1 or 2, gives what it gives on a network that never ran.
5. The same after a run that an exception cut off after {cut} calls. FirstBlockCache compares the first block's
   residual with the last one it saw, so whether it leaks depends on its threshold and on how alike two runs are;
   the other caches of diffusers count steps and go on counting. `disable_cache` and `enable_cache` again after an
   error prevent it.
6. After it is switched off, outputs are those from before, bit by bit.

Where the usual call fails, what a user can write instead is tried too. Not tried: to register blocks with
`TransformerBlockRegistry` of diffusers, patch functors of one's own for cache-dit, anything that edits a network.
cache-dit gets the pipeline, not the bare network; its source says that its cache does not support AnyFlowFAR.
The checks were chosen by the project whose runtime is the column HyCa; read that column with this in mind.
"""


if __name__ == "__main__":
    main()

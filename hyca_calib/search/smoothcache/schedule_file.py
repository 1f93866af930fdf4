"""Schedules in SmoothCache's own file: ``{kind: [1, 0, 0, 1, ...]}``, 1 for steps that run and 0 for steps that repeat.

A kind is the name of a layer, ``attn1``; ``attn1-7`` is that of block 7 only, and goes before the kind's.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from hyca_calib.search.options import Naming
from hyca_calib.search.smoothcache.rule import Runs
from hyca_calib.search.watched_run import Points
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.errors import PlanError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import LAYERS, CachePoint, parse_point
from hyca_runtime.registry import did_you_mean
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import Hold

NAMES: Mapping[Naming, Mapping[str, str]] = {
    "diffusers": {"attention": "attn1", "cross_attention": "attn2", "mlp": "ff"},
    "dit": {"attention": "attn", "cross_attention": "cross_attn", "mlp": "mlp"},
}
"""What kinds are called in files."""

ALIASES = {name: kind for names in NAMES.values() for kind, name in names.items()} | {
    **{kind: kind for kind in LAYERS},
    "self_attn": "attention",
    "ffn": "mlp",
    "feed_forward": "mlp",
}
"""Kinds by what files call them."""

INDEXED = re.compile(r"(?:[\w.]*\.|\*\.)?(\d*)(?:(\d)|\[(\d+)\])")
"""The path of a block by its number, or of some whose numbers differ in the last digit."""


def read_schedule(path: Path, num_steps: int) -> dict[str, tuple[bool, ...]]:
    """Whether layers run on each step, by kind or ``kind-block``.

    Raises:
        PlanError: no such file, not a schedule, or one of other steps.
    """
    found: dict[str, tuple[bool, ...]] = {}
    for name, steps in schedule_content(path).items():
        key = _key(path, name)
        if key in found:
            raise PlanError(f"{path}: {name!r}: a second list for layers of {key}")
        found[key] = _steps(f"{path}: {name!r}", steps, num_steps)
    return found


def schedule_content(path: Path) -> dict[str, Any]:
    """What is in a schedule file.

    Raises:
        PlanError: it cannot be read, or has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PlanError(f"{path}: cannot read the schedule: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not valid JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict) or not content:
        raise PlanError(f"{path}: expected an object with a list for each kind of layer, got {str(content)[:60]!r}")
    return content


def _key(path: Path, name: str) -> str:
    kind, dash, block = name.rpartition("-") if "-" in name else (name, "", "")
    if dash and not (block.isascii() and block.isdigit()):
        raise PlanError(f"{path}: {name[:60]!r}: expected a kind of layer, perhaps with the number of a block, attn1-7")
    if kind not in ALIASES:
        hint = did_you_mean(kind, list(ALIASES))
        raise PlanError(f"{path}: unknown kind of layer {kind[:60]!r}{hint} Known: {', '.join(ALIASES)}.")
    return ALIASES[kind] + (f"-{int(block)}" if dash else "")


def _steps(where: str, steps: Any, num_steps: int) -> tuple[bool, ...]:
    if not isinstance(steps, list) or not all(type(runs) is int and runs in (0, 1) for runs in steps):
        raise PlanError(f"{where}: expected a list of ones (run) and zeros (repeat), got {str(steps)[:60]}")
    if len(steps) != num_steps:
        raise PlanError(f"{where}: expected {num_steps} numbers, one for each step of the trace, got {len(steps)}")
    if not steps[0]:
        raise PlanError(f"{where}: step 0 must run, there is nothing to repeat")
    return tuple(map(bool, steps))


def points_of(schedule: Mapping[str, tuple[bool, ...]], module: nn.Module) -> tuple[Points, Runs]:
    """Points of a network for a schedule, and whether their layers run on each step.

    A kind with a list for some blocks is taken apart into blocks. Layers that are not named run on every step.

    Raises:
        AttachError: the network has no such layers.
    """
    points, runs = dict[str, CachePoint](), dict[str, tuple[bool, ...]]()
    for kind in LAYERS:
        whole = schedule.get(kind)
        blocks = {key.rpartition("-")[2]: steps for key, steps in schedule.items() if key.startswith(f"{kind}-")}
        if whole is not None and blocks:
            blocks = dict.fromkeys(_blocks(module, kind), whole) | blocks
        elif whole is not None:
            points[kind], runs[kind] = parse_point(kind), whole
        for block, steps in blocks.items():
            points[f"{kind}-{block}"], runs[f"{kind}-{block}"] = parse_point(f"{kind}:*.{block}"), steps
    return points, runs


def _blocks(module: nn.Module, kind: str) -> list[str]:
    """The numbers of the blocks that have layers of a kind."""
    numbers = (re.search(r"\.(\d+)\.", place.path) for place in find_layers(module, kind, "*"))
    return list(dict.fromkeys(found[1] for found in numbers if found))


def schedule_of(
    section: NetworkPlan, naming: Naming = "diffusers", lists: Mapping[str, Mapping[str, int]] = MappingProxyType({})
) -> dict[str, list[int]]:
    """The schedule of a plan that holds the outputs of layers, as SmoothCache's file has it.

    Args:
        lists: by kind of layer how many blocks with such layers each list of the network has, as far as it is known.

    Raises:
        PlanError: the plan does anything else, or treats blocks of one number in two lists apart.
    """
    found = dict[str, list[int]]()
    for name, forecast in section.points.items():
        held = all(group.solver.name == Hold.name for groups in forecast.groups.values() for group in groups)
        blocks = INDEXED.fullmatch(forecast.at.path)
        if forecast.at.kind not in LAYERS or not held or (forecast.at.path and blocks is None):
            raise PlanError(
                f"point {name!r} at '{forecast.at}': a schedule of SmoothCache only says on which steps layers of a "
                "kind, of all blocks or of some, repeat their output"
            )
        numbers = [f"{blocks[1]}{last}" for last in blocks[2] or blocks[3]] if blocks else []
        kind, own = NAMES[naming][forecast.at.kind], forecast.at.path.rpartition(".")[0]
        sizes = {of: size for of, size in lists.get(forecast.at.kind, {}).items() if own not in (of, "*")}
        others = [f"{of}.{number}" for of, size in sizes.items() for number in numbers if int(number) < size]
        for key in [f"{kind}-{number}" for number in numbers] or [kind]:
            if key in found or others:
                told = f"it is {kind} of {others[0]}, too" if others else f"{key} is there twice"
                raise PlanError(f"point {name!r}: {told}; a schedule of SmoothCache does not tell lists apart")
            found[key] = [int(name not in action.forecast) for action in section.schedule.actions()]
    if section.schedule.tables.keys() != {EVERY}:
        raise PlanError("the plan has tables by guidance branch, a schedule of SmoothCache has one for all")
    return found

"""Calls of a network, recorded, and put in order by guidance branch and step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyca_runtime.errors import TraceError
from hyca_runtime.feature import Feature


@dataclass(frozen=True)
class Shown:
    """What a cache point shows of one call.

    Attributes:
        feature: ``(batch, token, channel)`` by part, of the tokens that are looked at.
        num_tokens: how many there are, by part.
        gain: ``(part of the batch, channel)``.
    """

    feature: Feature
    num_tokens: tuple[int, ...]
    gain: Tensor


@dataclass(frozen=True)
class RecordedCall:
    """One call of the network, at a step of the `run`-th pass.

    A call that also fills a cache of keys and values may have more tokens than the others, before theirs.

    Attributes:
        shown: by point.
        parts: how many times all samples there are in the batch.
        repeats: whether all of these are of the same latents.
    """

    branch: str
    run: int
    step: int
    time: float
    scheduler_time: float | None
    shown: dict[str, Shown]
    parts: int
    repeats: Tensor
    fills_cache: bool


def by_branch_and_step(calls: Sequence[RecordedCall]) -> dict[str, list[tuple[RecordedCall, ...]]]:
    """Calls of the branches that are called alike on every step, ``[branch][step][pass or part]``.

    Raises:
        TraceError: there is no such branch.
    """
    by_branch: dict[str, dict[int, list[RecordedCall]]] = {}
    for call in calls:
        by_branch.setdefault(call.branch, {}).setdefault(call.step, []).append(call)
    steps = {run: 1 + max(call.step for call in calls if call.run == run) for run in {call.run for call in calls}}
    num_steps = max(steps.values(), default=0)
    whole = {
        branch: [tuple(found[step]) for step in range(num_steps)]
        for branch, found in by_branch.items()
        if len(found) == num_steps and len({_sizes(of_step) for of_step in found.values()}) == 1
    }
    if not whole or len(set(steps.values())) > 1:
        raise TraceError(_cause(calls, by_branch, num_steps))
    return whole


def _sizes(calls: Sequence[RecordedCall]) -> tuple[tuple[int, ...], ...]:
    """Samples, and tokens of each part of each point, of some calls."""
    return tuple(
        tuple(size for shown in call.shown.values() for size in (len(shown.feature[0]), *shown.num_tokens))
        for call in calls
    )


def _cause(
    calls: Sequence[RecordedCall], by_branch: Mapping[str, Mapping[int, Sequence[RecordedCall]]], num_steps: int
) -> str:
    """Why no branch is called alike on every step."""
    if not calls:
        return "expected calls of the network, got none; trace more --steps, another strength, or another --component"
    sizes = [_sizes([call for call in calls if call.step == step]) for step in range(num_steps)]
    changed = next((step for step in range(num_steps) if sizes[step] != sizes[0]), 0)
    if changed and len(set(map(len, sizes))) == 1:
        parts = 1 + len(next(iter(calls[0].shown.values())).num_tokens)
        first, other = (" and ".join(" x ".join(map(str, of[:parts])) for of in sizes[step]) for step in (0, changed))
        return (
            f"expected calls of one size on each of {num_steps} steps, got samples x tokens {first} on step 0 and "
            f"{other} on step {changed}, as where guidance in one call of two halves ends during the run; trace with "
            "guidance on every step: a run that ends it follows that plan, too, and is computed where it lacks features"
        )
    steps = range(num_steps)
    counts = {branch or "unnamed": [len(of.get(i, ())) for i in steps] for branch, of in by_branch.items()}
    return (
        f"expected a guidance branch that is called equally often on each of {num_steps} steps, got calls by branch "
        f"and step {counts}; where a pipeline conditions its branches anew at every step, let it name them: "
        "`with transformer.cache_context(name):`; frames with a time of their own each cannot be traced"
    )


def joined(calls: Sequence[Shown], num_samples: int) -> Feature:
    """``(sample, token, channel)``; parts of a batch that are no guidance branches, and passes, become tokens."""
    parts = []
    for pieces in zip(*(call.feature for call in calls), strict=True):
        if any(len(piece) % num_samples for piece in pieces):
            batches = sorted({len(piece) for piece in pieces})
            raise TraceError(
                f"expected calls of the network with a multiple of {num_samples} samples, got {batches}; "
                "trace with --batch 1"
            )
        split = (piece.reshape(-1, num_samples, *piece.shape[1:]).transpose(0, 1).flatten(1, 2) for piece in pieces)
        parts.append(torch.cat(tuple(split), dim=1))
    return Feature(parts)

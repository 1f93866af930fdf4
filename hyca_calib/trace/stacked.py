"""Guidance branches that one call of the network holds side by side in its batch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyca_calib.trace.recorded_call import RecordedCall, Shown
from hyca_runtime.branches import stacked_label
from hyca_runtime.feature import Feature


def repeats(args: tuple[Any, ...], kwargs: dict[str, Any], parts: int) -> Tensor:
    """Whether all parts of a call's batch are of the same latents; on their device, which is not waited for."""
    latents = _latents(args, kwargs)
    if parts == 1 or latents is None or len(latents) % parts:
        return torch.tensor(False)
    each = latents.reshape(parts, -1, *latents.shape[1:])
    return same(each[1:], each[:1])


def same(one: Tensor, other: Tensor) -> Tensor:
    """Whether two tensors are equal, NaN as any number; on their device."""
    return torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all()


def _latents(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a call denoises: its hidden states, else the first argument that holds floating numbers."""
    for value in (kwargs.get("hidden_states"), *args, *kwargs.values()):
        members = value if isinstance(value, list | tuple) else [value]
        if members and all(isinstance(member, Tensor) and member.is_floating_point() for member in members):
            alike = isinstance(value, Tensor) or len({member.shape for member in members}) == 1
            return (value if isinstance(value, Tensor) else torch.stack(list(members))) if alike else None
    return None


def stacked_branches(calls: Sequence[RecordedCall]) -> int:
    """How many branches each call holds: 1 unless all of them hold as many, each of the same latents."""
    parts = {call.parts for call in calls}
    return parts.pop() if len(parts) == 1 and all(bool(call.repeats) for call in calls) else 1


def taken_apart(call: RecordedCall, branches: int) -> list[RecordedCall]:
    """The call as one of each of so many branches."""
    if branches == 1:
        return [call]
    found = []
    for i in range(branches):
        label, shown = stacked_label(call.branch, i, branches), dict[str, Shown]()
        for name, of in call.shown.items():
            feature = Feature(part.chunk(branches)[i] for part in of.feature)
            shown[name] = Shown(feature, of.num_tokens, of.gain[i : i + 1])
        found.append(replace(call, branch=label, shown=shown))
    return found

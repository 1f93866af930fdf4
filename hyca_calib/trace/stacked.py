"""Guidance branches that one call of the network holds side by side in its batch."""

from collections.abc import Sequence
from dataclasses import replace

from hyca_calib.trace.recorded_call import RecordedCall, Shown
from hyca_runtime.feature import Feature
from hyca_runtime.stacked import stacked_labels


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
        label, shown = stacked_labels(call.branch, branches)[i], dict[str, Shown]()
        for name, of in call.shown.items():
            feature = Feature(part.chunk(branches)[i] for part in of.feature)
            shown[name] = Shown(feature, of.num_tokens, of.gain[i : i + 1])
        found.append(replace(call, branch=label, shown=shown))
    return found

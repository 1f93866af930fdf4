"""What a full and a predicted step cost: counted and timed, on one call of the network."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from hyca_calib.costs.flops import TIMED_TAPS, CostModel, TimedOn, measure_seconds
from hyca_calib.records.provenance import machine
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_point import Captured
from hyca_runtime.combine import forecast
from hyca_runtime.feature import Feature, widths
from hyca_runtime.flop_count import count_flops
from hyca_runtime.history import History
from hyca_runtime.placed_weights import PlacedWeights
from hyca_runtime.precision import precision_of

REPEATS = 5

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of the network."""


def measure_steps(
    attachment: Attachment, call: Call, batch: int, num_calls: int, numel: Mapping[str, int]
) -> dict[str, CostModel]:
    """Costs of a step of one sample, by point.

    Args:
        call: of `batch` samples.
        num_calls: of the network on a step.
        numel: numbers in one feature of a sample, by point.
    """
    (args, kwargs), each, names = call, num_calls / batch, tuple(attachment.points)

    def full() -> Captured:
        return attachment.run(args, kwargs, names, {})[1]

    with torch.no_grad():
        features = full()
        full_flops, full_seconds = count_flops(full) * each, measure_seconds(full, REPEATS) * each
        devices = [str(part.device) for feature in features.values() for part in feature or ()]
        timed_on = TimedOn(machine(devices[0] if devices else "cpu"), precision_of(attachment.module), batch)
        found = {}
        for name in names:
            feature = features[name] or Feature(())
            tail = partial(attachment.run, args, kwargs, (), {name: feature})
            predicted = _predicted(attachment, call, name, feature)
            found[name] = CostModel(
                full_flops=full_flops,
                tail_flops=count_flops(tail) * each,
                feature_numel=numel[name],
                full_seconds=full_seconds,
                predicted_seconds=measure_seconds(predicted, REPEATS) * each,
                timed_on=timed_on,
            )
    return found


def _predicted(attachment: Attachment, call: Call, name: str, feature: Feature) -> Callable[[], Any]:
    """A call as the runtime makes it on a predicted step, its weighted sum included."""
    history, axis = History(TIMED_TAPS), attachment.points[name].channel_axis
    for step in range(TIMED_TAPS):
        history.push(step, feature)
    rows = np.full((TIMED_TAPS, sum(widths(feature, axis))), 1 / TIMED_TAPS, dtype=np.float32)
    weights = PlacedWeights().get(name, lambda: rows, history, axis)
    args, kwargs = call
    return lambda: attachment.run(args, kwargs, (), {name: forecast(history, weights)})

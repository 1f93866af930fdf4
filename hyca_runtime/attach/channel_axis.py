"""On which axis the network's output counts its channels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint

PICTURE_DIMS = 4
"""Tensors with as many are pictures or clips; with fewer tokens, whose channels come last."""


def settle_axes(attachment: Attachment, captured: Mapping[str, Feature | None]) -> None:
    """Let points of an attachment know their axis, from what a call has shown of them."""
    for name, feature in captured.items():
        if feature is not None:
            attachment.points[name] = with_channel_axis(attachment.points[name], feature, attachment.module)


def with_channel_axis(point: CachePoint, feature: Feature, network: nn.Module) -> CachePoint:
    """The point with the axis that counts channels in what the network returned there.

    Pictures and clips are ``(batch, channel, ...)`` or ``(batch, frame, channel, ...)``, with as many channels as the
    configuration says, or twice that with a variance of each. Another axis than the last that was asked for stays.
    """
    if point.kind != "output" or point.channel_axis != -1 or min(part.ndim for part in feature) < PICTURE_DIMS:
        return point
    config = getattr(network, "config", {})
    told = {count for name in ("out_channels", "in_channels") if isinstance(count := config.get(name), int)}
    counts = told | {2 * count for count in told}
    axes = [axis for axis in (1, 2) if all(part.shape[axis] in counts for part in feature)]
    return point.model_copy(update={"channel_axis": axes[0]}) if axes else point

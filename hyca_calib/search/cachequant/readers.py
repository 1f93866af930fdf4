"""Which layers read what a span of blocks adds, before any other layer has."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.search.watched_run import WatchedCall
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.points import SIDE_LIST, Place, find_blocks
from hyca_runtime.attach.variants import find_linears
from hyca_runtime.feature import Feature

MOVED = 1.5
"""By what a tensor is multiplied to see what depends on it."""


def find_readers(attachment: Attachment, call: WatchedCall, name: str, layers: str) -> tuple[Place, ...]:
    """The linear layers of the block behind a span that read what the span adds, and nothing that another of these
    layers made of it; none where no block is behind it.

    Found by three calls of the network: as it is, with another feature, and with other outputs of what that changed.

    Args:
        name: of the point, a span.
        layers: pattern of those that a variant quantises, see `VariantSpec`.
    """
    last = attachment.points[name].ends[-1]
    paths = [place.path for place in find_blocks(attachment.module) if not SIDE_LIST.search(place.path.split(".")[0])]
    behind = paths[paths.index(last) + 1 :][:1]
    linears = [
        place
        for place in find_linears(attachment.module, layers)
        if any(place.path.startswith(f"{path}.") for path in behind)
    ]
    own = call.features[name]
    whole = _inputs(attachment, call, name, own, linears, ())
    moved = _inputs(attachment, call, name, Feature((MOVED * part for part in own), own.form), linears, ())
    changed = [place for place in linears if _differ(whole, moved, place)]
    later = _inputs(attachment, call, name, own, linears, changed)
    return tuple(place for place in changed if not _differ(whole, later, place))


def _differ(one: dict[str, Tensor], other: dict[str, Tensor], place: Place) -> bool:
    return place.path in one and not torch.equal(one[place.path], other[place.path])


def _inputs(
    attachment: Attachment,
    call: WatchedCall,
    name: str,
    feature: Feature,
    linears: list[Place],
    moving: Iterable[Place],
) -> dict[str, Tensor]:
    """What each layer is called with, by its path.

    Args:
        moving: layers whose outputs are other than they would be.
    """
    found = dict[str, Tensor]()

    def keep(path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[path] = args[0].detach().clone()

        return hook

    hooks = [place.module.register_forward_pre_hook(keep(place.path)) for place in linears]
    hooks += [place.module.register_forward_hook(lambda _, __, output: MOVED * output) for place in moving]
    try:
        with torch.no_grad():
            attachment.run(call.args, call.kwargs, (), {name: feature})
    finally:
        for hook in hooks:
            hook.remove()
    return found

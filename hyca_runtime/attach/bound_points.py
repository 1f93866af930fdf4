"""From cache points to their places in a network."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, permutations

from torch import nn

from hyca_runtime.attach.bound_leading import BoundLeading
from hyca_runtime.attach.bound_modules import BoundModules
from hyca_runtime.attach.bound_output import BoundOutput
from hyca_runtime.attach.bound_point import BoundPoint
from hyca_runtime.attach.bound_tail import BoundTail
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.attach.points import find_blocks, find_modules, find_span
from hyca_runtime.errors import AttachError
from hyca_runtime.point import CachePoint


def bind_points(network: nn.Module, points: Mapping[str, CachePoint], apart: bool = True) -> dict[str, BoundPoint]:
    """Where some points lie in `network`, by name.

    Args:
        apart: whether they must not overlap, as where several are forecast in one call.

    Raises:
        AttachError: one lies nowhere; or inside another's modules, or two hold the output of one module.
    """
    found = {name: bind_point(network, point) for name, point in points.items()}
    if apart:
        _check_apart(points, found)
    return found


def _check_apart(points: Mapping[str, CachePoint], found: Mapping[str, BoundPoint]) -> None:
    for (one, bound), (other, also) in combinations(found.items(), 2):
        if isinstance(bound, BoundModules) and isinstance(also, BoundModules) and (both := bound.paths & also.paths):
            raise AttachError(f"the points {one!r} and {other!r} both hold the output of {min(both)}")
    for (one, inner), (other, outer) in permutations(found.items(), 2):
        if isinstance(inner, BoundModules) and isinstance(outer, BoundModules) and points[other].kind != "span":
            held = [path for path in inner.paths if any(path.startswith(f"{above}.") for above in outer.paths)]
            if held:
                raise AttachError(f"the point {one!r} lies inside {other!r}, at {min(held)}; choose one of them")
        if isinstance(inner, BoundModules) and isinstance(outer, BoundTail) and points[one].kind == "span":
            held = [path for path in inner.paths if outer.leaves_out(path)]
            if held and not points[other].stands_for(points[one]):
                blocks = f"the {points[other].leading} blocks that lead {other!r}"
                raise AttachError(f"the span {one!r} ends at {min(held)}, behind {blocks}; let it end among those")


def bind_point(network: nn.Module, point: CachePoint) -> BoundPoint:
    """Where `point` lies in `network`.

    Raises:
        AttachError: nowhere.
    """
    if point.kind == "output":
        return BoundOutput()
    if point.kind == "leading":
        return BoundLeading(network, point.leading)
    residual = point.keep == "residual"
    if point.kind == "trunk":
        return BoundTail(network, residual)
    if point.kind == "behind":
        return BoundTail(network, residual, point.leading)
    if point.kind == "span":
        span = find_span(network, *point.ends)
        return BoundModules(span[-1:], span[:-1], residual)
    if point.kind == "blocks":
        return BoundModules(find_blocks(network), (), residual)
    if point.kind == "modules":
        return BoundModules(find_modules(network, point.path), (), residual)
    return BoundModules(find_layers(network, point.kind, point.path or "*"), (), residual)

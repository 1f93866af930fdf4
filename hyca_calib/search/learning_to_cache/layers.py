"""The layers of a network one by one, and points that several of them share."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from torch import nn

from hyca_calib.search.learning_to_cache.rule import patterns_of
from hyca_calib.search.smoothcache.layers import kinds_of
from hyca_calib.search.smoothcache.rule import Runs
from hyca_calib.search.watched_run import Points
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.attach.points import find_block_lists
from hyca_runtime.errors import AttachError
from hyca_runtime.point import CachePoint, parse_point

LISTS = "block_lists"
"""What `lists_of` is called in the origin of plans."""


def single_layers(module: nn.Module) -> dict[str, CachePoint]:
    """The layers of each kind in each block, as points: block after block, attention before MLP.

    Layers of one kind in one block, such as those of two streams, are together.

    Raises:
        AttachError: the network has none.
    """
    kinds, found = list(kinds_of(module)), dict[str, CachePoint]()
    for blocks in find_block_lists(module):
        for name, _ in blocks.module.named_children():
            for kind in kinds:
                with suppress(AttachError):
                    find_layers(module, kind, f"{blocks.path}.{name}")
                    point = parse_point(f"{kind}:{blocks.path}.{name}")
                    found[str(point)] = point
    return found


def lists_of(layers: Points) -> dict[str, dict[str, int]]:
    """By kind of layer how many blocks with such layers each list of a network has.

    Args:
        layers: the points of all single layers.
    """
    found = dict[str, dict[str, int]]()
    for point in layers.values():
        owner, sizes = point.path.rpartition(".")[0], found.setdefault(point.kind, {})
        sizes[owner] = sizes.get(owner, 0) + 1
    return found


def shared_points(runs: Mapping[str, Sequence[bool]], layers: Points) -> tuple[dict[str, CachePoint], Runs]:
    """Points of single layers put together where these run on the same steps, and the steps of each.

    Args:
        layers: the points of all single layers of a network.
    """
    points, steps_of = dict[str, CachePoint](), dict[str, tuple[bool, ...]]()
    for steps, names in patterns_of(runs).items():
        for kind in dict.fromkeys(layers[name].kind for name in names):
            paths = [layers[name].path for name in names if layers[name].kind == kind]
            whole = {point.path for point in layers.values() if point.kind == kind} == set(paths)
            for path in [""] if whole else covering(paths):
                point = parse_point(f"{kind}:{path}")
                points[str(point)], steps_of[str(point)] = point, steps
    return points, steps_of


def covering(paths: Iterable[str]) -> list[str]:
    """Patterns that match these paths of blocks and no others: those that differ in the last character are one.

    >>> covering(["blocks.1", "blocks.3", "blocks.10"])
    ['blocks.[13]', 'blocks.10']
    """
    ends = dict[str, str]()
    for path in paths:
        ends[path[:-1]] = ends.get(path[:-1], "") + path[-1]
    return [head + (last if len(last) == 1 else f"[{last}]") for head, last in ends.items()]

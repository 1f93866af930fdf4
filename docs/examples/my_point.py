"""A cache point in one file: every second block of the network, kept as what each adds to its streams.

A bound point says who stands in its modules' places while the network is computed, and while it is forecast. The
shipped proxies capture outputs, recall them and pass modules by; most points are a choice of modules for them.
"""

from __future__ import annotations

from torch import nn

from hyca_runtime.attach.bound_modules import BoundModules
from hyca_runtime.attach.bound_point import BoundPoint
from hyca_runtime.attach.points import find_blocks


def every_second_block(network: nn.Module) -> BoundPoint:
    """The second, fourth, sixth ... block, in the order in which they run."""
    return BoundModules(find_blocks(network)[1::2], (), residual=True)

"""A cache point in a network: who stands where while it is computed, and while it is forecast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from hyca_runtime.attach.points import Place
from hyca_runtime.feature import Feature

Proxies = Sequence[tuple[Place, nn.Module]]

Captured = dict[str, Feature | None]
"""Features by the name of their point."""

Keeper = Callable[[Captured], None]


class BoundPoint(ABC):
    """One cache point of one network. What it must know to put a feature back goes with the feature."""

    @abstractmethod
    def captures(self) -> Proxies:
        """The proxies that stand in its modules' places while the network is computed."""

    @abstractmethod
    def captured(self, output: Any) -> Feature | None:
        """The feature of the call that just ended with `output`; None if it never came to the point."""

    @abstractmethod
    def discard(self) -> None:
        """Forget what was seen of a call whose feature nobody wants."""

    @abstractmethod
    def injectors(self, feature: Feature) -> Proxies:
        """The proxies that stand there while the network is predicted from `feature`."""

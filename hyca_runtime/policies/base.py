"""When the network is computed."""

from __future__ import annotations

from typing import Protocol

from hyca_runtime.moment import Moment
from hyca_runtime.schedule import Action


class Policy(Protocol):
    """Decides the action of each moment, on the host, before the network is called."""

    def action(self, moment: Moment) -> Action: ...

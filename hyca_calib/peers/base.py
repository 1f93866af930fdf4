"""What a peer is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

__all__ = ["Peer"]


@dataclass(frozen=True)
class Peer:
    """One setting of one method.

    Attributes:
        family: the method; its settings compete among themselves first.
        steps: what the pipeline is called with.
        applied: wraps the sampling.
    """

    name: str
    family: str
    steps: int
    applied: Callable[[], AbstractContextManager[Any]]

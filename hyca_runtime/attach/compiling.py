"""Keeping decisions out of compiled graphs.

Which step it is, and what is done on it, is plain Python; the network must compile as if nothing
were attached. So functions of the runtime are of two kinds: those `outside` every graph, and those
`around` the network, which are not traced themselves while the network they call is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def outside(function: F) -> F:
    """`function`, never traced, nor anything it calls."""
    return torch.compiler.disable(function)  # type: ignore[no-any-return, no-untyped-call]


def around(function: F) -> F:
    """`function`, whose own frame is not traced; what it calls is compiled as usual.

    The public ``torch.compiler.disable(recursive=False)`` meant this once; in torch 2.13 it skips
    only a wrapper frame and traces the function itself.
    """
    from torch._dynamo.decorators import skip  # imported late: it costs a second

    skip(getattr(function, "__func__", function))
    return function

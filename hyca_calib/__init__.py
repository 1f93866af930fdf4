"""HyCa's offline toolkit: plans that make a diffusion transformer several times cheaper.

Five functions do what the commands do, on a pipeline that is ready: `calibrate` everything, or step by step `trace`,
`search`, `evaluate` and `check`. They are documented in `hyca_calib.api`, which is imported when one of them is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.api import calibrate, check, evaluate, search, trace

__all__ = ["calibrate", "check", "evaluate", "search", "trace"]

PACKAGES = frozenset({"search", "trace"})
"""Functions whose names packages have, too; the packages are called instead."""


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        return getattr(import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

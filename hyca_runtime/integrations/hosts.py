"""The projects that serve, and the releases of them that the adapters were written against."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from hyca_runtime.errors import AttachError

TESTED: Mapping[str, str] = {
    "cache-dit": "1.5.3",
    "sglang": "0.5.23",
    "vllm-omni": "0.30.0",
    "xfuser": "0.7.0",
}
"""By distribution. The one place where these stand; `tests/runtime/test_hosts.py` holds what is there against them."""


def host_module(name: str, distribution: str) -> Any:
    """A module of a host, imported only where it is used.

    Raises:
        AttachError: it cannot be imported; the message names the release that is known to have it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        known = f"{distribution}=={TESTED[distribution]}"
        raise AttachError(f"cannot import {name} ({error}); expected it as in {known}: pip install {known}") from error

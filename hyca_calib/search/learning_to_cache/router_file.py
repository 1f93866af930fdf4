"""Routers of Learning-to-Cache's release for DiT: a torch checkpoint with the numbers before the sigmoid.

``routers`` has ``{"0.prob": (2 * blocks,), "1.prob": ...}``, attention and MLP of one block after the other, counted
from the last step of the sampler; of these only every other one is used.
"""

import argparse
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_calib.search.learning_to_cache.rule import Gated
from hyca_calib.search.replay import Array
from hyca_runtime.errors import PlanError


def read_router(path: Path, site: Gated) -> Array:
    """The gates of a released router, ``(step, layer)``.

    Args:
        site: every other step of a network of which the layers are those of the router.

    Raises:
        PlanError: no such file, not a router, or one of other steps or layers.
    """
    if (site.num_steps - 1 - site.steps[0]) % 2:
        odd = f"is for an even number of steps, the trace has {site.num_steps}"
        late = f"reuses on the second step, and this model computes its first {site.steps[0]}"
        raise PlanError(f"{path}: a released router {odd if site.num_steps % 2 else late}")
    found = _content(path)
    wanted = [f"{site.num_steps - 1 - step}.prob" for step in site.steps]
    if len(found) != site.num_steps or not found.keys() >= set(wanted):
        raise PlanError(f"{path}: expected routers of {site.num_steps} steps, as the trace has, got {len(found)}")
    rows = [found[name] for name in wanted]
    for name, row in zip(wanted, rows, strict=True):
        if not isinstance(row, Tensor) or row.shape != (len(site.names),) or not row.isfinite().all():
            got = tuple(row.shape) if isinstance(row, Tensor) else type(row).__name__
            raise PlanError(f"{path}: {name!r}: expected {len(site.names)} finite numbers, one a layer, got {got}")
    return np.asarray(torch.sigmoid(torch.stack(rows).double()).numpy())


def router_digest(path: Path) -> str:
    """What a study knows a router file by.

    Raises:
        PlanError: it cannot be read.
    """
    return hashlib.sha256(_bytes(path)).hexdigest()


def _content(path: Path) -> Mapping[str, Any]:
    """What is in a router file; only tensors and plain values are read of it."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(io.BytesIO(_bytes(path)), map_location="cpu", weights_only=True)
    except PlanError:
        raise
    except Exception as error:  # whatever a file that is no checkpoint makes torch stumble over
        raise PlanError(f"{path}: not a checkpoint of torch with tensors and plain values alone") from error
    routers = content.get("routers") if isinstance(content, dict) else None
    if not isinstance(routers, dict):
        raise PlanError(f"{path}: expected the router of a DiT as released, a checkpoint with 'routers'")
    return routers


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: cannot read the router: {error.strerror}") from error

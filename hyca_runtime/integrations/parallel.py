"""Plans under context parallelism: ranks that each hold a part of every sample decide alike.

A forecast weighs a token's own past and no other token, so each rank forecasts its part and nobody is asked. A static
plan decides by the step alone, which all ranks know. What reads a tensor (a policy's evidence, whether a forecast is
finite) reads a part of it, and is agreed on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from hyca_runtime.agreement import Agreement
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.errors import AttachError


class AcrossRanks(Agreement):
    """Ranks of `torch.distributed` that share samples.

    All ranks gather the few numbers that each found and reduce them in the order of the ranks, so that the result is
    the same to the bit whatever the backend does. Every rank must make the same calls.

    Args:
        group: of the ranks that share a sample, None for all.

    Raises:
        AttachError: there are no ranks.
    """

    alone = False

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise AttachError(
                "ranks that decide alike need torch.distributed: start with torchrun, and call "
                "torch.distributed.init_process_group() first"
            )
        self._group, self._size = group, dist.get_world_size(group)

    def mean(self, own: Tensor) -> Tensor:
        return self._gathered(own.detach().double()).mean(0).to(own)

    def everywhere(self, own: Tensor) -> Tensor:
        return self._gathered(own.detach().to(torch.uint8)).amin(0).bool().to(own.device)

    def _gathered(self, own: Tensor) -> Tensor:
        """What all ranks found, ``(rank, ...)``, in their order."""
        sent = (own.cpu() if dist.get_backend(self._group) == "gloo" else own).contiguous()
        found = [torch.empty_like(sent) for _ in range(self._size)]
        dist.all_gather(found, sent, group=self._group)
        return torch.stack(found).to(own.device)


def across_ranks(target: object) -> AcrossRanks:
    """The ranks that diffusers cuts the samples of a pipeline, or a transformer, over.

    Args:
        target: one whose `enable_parallelism` was called with a `ContextParallelConfig`.

    Raises:
        AttachError: its samples are not cut, or diffusers does not say over which ranks.
    """
    groups = [_group(network) for network in find_transformers(target).values() if _is_cut(network)]
    if not groups:
        raise AttachError(
            f"no network of {type(target).__name__} is cut over ranks; call enable_parallelism(config="
            "ContextParallelConfig(...)) first, or name the group: AcrossRanks(group)"
        )
    return AcrossRanks(groups[0])


def _context(network: nn.Module) -> Any:
    """What diffusers knows of the ranks over which it cuts the tokens of a network, None if it does not."""
    return getattr(getattr(network, "_parallel_config", None), "context_parallel_config", None)


def _is_cut(network: nn.Module) -> bool:
    return _context(network) is not None


def _group(network: nn.Module) -> dist.ProcessGroup:
    mesh = getattr(_context(network), "_flattened_mesh", None)
    if mesh is None:
        raise AttachError(
            f"this diffusers does not say over which ranks a {type(network).__name__} is cut, expected a "
            "_flattened_mesh as in 0.42; name the group: AcrossRanks(group)"
        )
    found: dist.ProcessGroup = mesh.get_group()
    return found

"""One lane on each rank of `torch.distributed`, with a replica of the pipeline.

In every pass all ranks hand each other what their networks said, and take all lanes one step on, so each knows all of
them: latents are small, and nobody has to be asked. Only tensors are exchanged; nothing is pickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from hyca_runtime.attach.points import find_components
from hyca_runtime.errors import SamplerError
from hyca_runtime.fingerprint import config_digest, weights_digest
from hyca_runtime.samplers.chords import Chords
from hyca_runtime.samplers.drives import Driving, Evaluation
from hyca_runtime.samplers.starts import Lanes

COMPARED = ("networks", "weights", "starts, stop rule, plans or number of steps")

ALIKE = 0.02
"""Relative difference of what two replicas say of the same noise, beyond rounding of any precision."""


class Ranks:
    """Where the lanes run: each on a rank.

    A lane begins passes later than the one behind it. Until then its rank evaluates the initial noise, which the
    pipeline's loop begins with, and which tells whether all replicas are alike.

    Args:
        group: of `torch.distributed`, None for all ranks.
        patience: seconds that a rank waits for the others in a pass; longer than one evaluation takes.

    Raises:
        SamplerError: there are no ranks.
    """

    copies = 1

    def __init__(self, group: dist.ProcessGroup | None = None, patience: float = 30.0) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise SamplerError(
                "lanes on ranks need torch.distributed: start with torchrun --nproc-per-node LANES, and call "
                "torch.distributed.init_process_group() first"
            )
        self._group, self._patience = group, timedelta(seconds=patience)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.opens = 0 if self.rank == 0 else None

    def meet(self, pipe: Any, lanes: int, settings: str) -> None:
        """Make sure that all ranks have the same networks and settings, and are as many as there are lanes.

        Raises:
            SamplerError: they are not.
        """
        spread = [name for name, module in find_components(pipe).items() if getattr(module, "_parallel_config", None)]
        if spread:
            raise SamplerError(f"the {spread[0]} is spread over devices itself; that inside a lane is not supported")
        facts = [lanes, *(_number(digest) for digest in (*_digests(pipe), settings))]
        met = self._gathered(torch.tensor(facts, dtype=torch.int64, device=self._device()))
        others = [int(found[0]) for found in met]
        if set(others) != {self.size}:
            raise SamplerError(f"expected as many lanes as ranks, got lanes {others} on {self.size} ranks")
        for rank, found in enumerate(met):
            for name, own, first in zip(COMPARED, found[1:], met[0][1:], strict=True):
                if own != first:
                    raise SamplerError(f"rank {rank} has other {name} than rank 0; give all ranks the same")

    def route(self, lanes: Lanes, passes: int) -> list[tuple[int, ...]]:
        steps = [lanes.step(self.rank, number) for number in range(1, passes + 1)]
        known: list[tuple[int, ...]] = [(step,) for step in steps if step is not None]
        return known if self.rank == 0 else [(0,), *known]

    def drive(self, chords: Chords) -> Driving:
        noise = chords.live[0].latents
        output = yield Evaluation((0,), noise, self.opens)
        outputs = self._gathered(output)
        self._compare(self._gathered(noise), outputs)
        chords.advance({0: outputs[0]})
        while not chords.done:
            core, own = chords.live.get(self.rank), torch.zeros_like(output)
            if core is not None:
                own = yield Evaluation((core.step,), core.latents, self.rank)
            outputs = self._gathered(own)
            chords.advance({lane: outputs[lane] for lane in chords.live})

    def own(self, lanes: int) -> Sequence[int]:
        return range(lanes)[self.rank : self.rank + 1]

    def shared(self, marks: Tensor) -> Tensor:
        return torch.stack(self._gathered(marks)).sum(0)

    def _compare(self, noises: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        for rank, (noise, output) in enumerate(zip(noises, outputs, strict=True)):
            if not torch.equal(noise, noises[0]):
                raise SamplerError(
                    f"rank {rank} began from other noise than rank 0; give each rank a generator of the same seed"
                )
            difference = float((output - outputs[0]).float().norm() / outputs[0].float().norm().clamp(min=1e-20))
            if not difference <= ALIKE:
                raise SamplerError(
                    f"of the same noise rank {rank} said something else than rank 0, by {difference:.2g} of its norm; "
                    "give each rank the same prompt, guidance and adapters"
                )

    def _gathered(self, own: Tensor) -> list[Tensor]:
        """What all ranks hand out, in their order.

        Raises:
            SamplerError: a rank did not.
        """
        sent = own.contiguous() if dist.get_backend(self._group) != "gloo" else own.cpu().contiguous()
        found = [torch.empty_like(sent) for _ in range(self.size)]
        try:
            work = dist.all_gather(found, sent, group=self._group, async_op=True)
            if work is not None:
                work.wait(self._patience)
        except (RuntimeError, ValueError) as error:
            told = (str(error).splitlines() or [""])[0][:160]
            raise SamplerError(
                f"rank {self.rank} of {self.size} lost another: it ended, or did not answer within "
                f"{self._patience.total_seconds():g} s ({told})"
            ) from error
        return [each.to(own.device) for each in found]

    def _device(self) -> torch.device:
        """Where tensors are exchanged that are not the sampler's."""
        return torch.device("cpu" if dist.get_backend(self._group) == "gloo" else f"cuda:{torch.cuda.current_device()}")


def _digests(pipe: Any) -> tuple[str, str]:
    networks = find_components(pipe)
    told = [[of(module) for name, module in sorted(networks.items())] for of in (config_digest, weights_digest)]
    return "".join(told[0]), "".join(told[1])


def _number(digest: str) -> int:
    return int.from_bytes(hashlib.sha256(digest.encode()).digest()[:7])

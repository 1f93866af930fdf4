r"""SpeCa: TaylorSeer drafts steps, and the last block, run on the draft, says how wrong the draft is.

Liu et al. (2025), "SpeCa: Accelerating Diffusion Transformers with Speculative Feature Caching", arXiv 2509.11628.
After a computed step the following ones are drafted by Taylor's series. To verify a draft the last block is run on its
drafted input; with x what that block was drafted to put out and y what it does put out, the draft is rejected where

.. math:: e = \|x - y\|_2 \, / \, \|y\|_2 \; > \; \tau_0 \, \beta^{s/S}

at step s of S. The output of an accepted step is made from the draft. The block really runs, inside the network's
forward, so its cost counts like any other.

The authors' release (Cache4Diffusion) adds: the first `free` drafts after a computed step are not verified, and there
are at most `most` of them (2 and 8 for FLUX, 2 and 5 for DiT, 4 and 12 for HunyuanVideo); a rejected draft is used all
the same, and the step *after* it is computed. Here `free` and `most` are swept, and `redo` says both readings: "next"
is the release, "step" computes the rejected step itself, which then costs both. Of the paper we could read the
abstract and accounts by others, not its algorithm: which of the two it means is open.

Where ours differs from the release: we draft two tensors, the input of the last block and that of the final norm, while
the release drafts every attention and MLP output (many times the memory; at our cache point forecasts are better, too);
the release's default error is the mean of elementwise ratios :math:`|x-y| / |y|`, hence thresholds like 7, ours the
ratio of norms; its thresholds never fall below 0.1 (DiT: 0.01), ours do; in its first W steps every other one is
drafted, ours are computed. A batch is judged as a whole, as in the release, and every guidance branch by itself.
"""

import inspect
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from hyca_calib.baselines.base import Applied, Axis, Family, Settings, Setup, counts, ladder
from hyca_calib.baselines.stepwise import Call, Computed, driven, refusal, weighted
from hyca_runtime.attach.points import find_blocks, find_tail, find_transformer
from hyca_runtime.attach.proxies import CaptureStreams, InjectInput, PassBy, placed
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.solvers import Taylor

ENTRIES, REJECTED = "entries", "rejected"
"""What a stream remembers: what went into the last block on computed steps, whether the draft before was rejected."""


class Speculation(BaseModel, frozen=True):
    """SpeCa's settings, by the names of its axes.

    Attributes:
        num_steps: S, of the run.
        warmup: steps at the start that are computed.
        threshold, decay: tau_0 and beta.
        free: drafts after a computed step that are not verified.
        most: drafts after a computed step.
        redo: whether a rejected step is computed itself, or the next one.
    """

    num_steps: int
    warmup: int = Field(alias="W")
    order: int = Field(alias="O")
    threshold: float = Field(alias="tau")
    decay: float = Field(alias="beta")
    free: int
    most: int
    redo: Literal["next", "step"]

    def allowed(self, step: int) -> float:
        """Largest error that is accepted."""
        return float(self.threshold * self.decay ** (step / self.num_steps))

    def due(self, step: int, last: int) -> bool:
        """Whether `step` is computed whatever its draft is like, `last` being the last computed one."""
        return step < self.warmup or step - last > self.most

    def row(self, steps: Sequence[int], target: int) -> np.ndarray:
        """Weights of the features of `steps`, newest first, in the draft of step `target`."""
        return Taylor(self.order).weights(np.array(steps[: self.order + 1], dtype=np.float64), float(target))


def relative_error(draft: Feature, live: Feature) -> float:
    """``|draft - live| / |live|`` in the Euclidean norm over all parts; the batch is one vector."""
    pairs = [(a.double(), b.double()) for a, b in zip(draft, live, strict=True)]
    off = torch.stack([(a - b).norm() for a, b in pairs]).norm()
    return float(off / torch.stack([b.norm() for _, b in pairs]).norm())


class FeedStreams(CaptureStreams):
    """Runs `inner` on `fed` instead of the streams it is called with; those that are None stay."""

    def __init__(self, inner: nn.Module, fed: Sequence[Tensor | None]) -> None:
        super().__init__(inner)
        self.fed = {name: stream for name, stream in zip(self.io.returns, fed, strict=True) if stream is not None}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = inspect.signature(self.inner.forward).bind(*args, **kwargs)
        call.arguments.update(self.fed)
        return self.inner(*call.args, **call.kwargs)


class Speculator:
    """Answers the calls of one network, whose last block is the judge."""

    def __init__(self, settings: Speculation, network: nn.Module) -> None:
        self.settings, self.tails = settings, find_tail(network)
        *self.blocks, self.judge = find_blocks(network)

    def answer(self, call: Call) -> Any:
        stream, settings = call.stream, self.settings
        rejected = stream.memory.pop(REJECTED, False)
        if rejected or not stream.past or settings.due(stream.step, stream.past[0].step):
            return self._computed(call)
        row = settings.row([computed.step for computed in stream.past], stream.step)
        draft = weighted(stream.past, row)
        if stream.step - stream.past[0].step <= settings.free:
            return call.predict(draft)
        output, error = self._verified(call, draft, row)
        if error <= settings.allowed(stream.step):
            return output
        if settings.redo == "step":
            return self._computed(call)
        stream.memory[REJECTED] = True
        return output

    def _computed(self, call: Call) -> Any:
        """Compute the step and keep what goes into the last block, too."""
        entry = CaptureStreams(self.judge.module)
        with placed([(self.judge, entry)]):
            output = call.compute()
        if call.feature is not None:
            there = [isinstance(stream, Tensor) for stream in entry.captured or ()]
            parts = (stream.clone() for stream in entry.captured or () if isinstance(stream, Tensor))
            entries = call.stream.memory.setdefault(ENTRIES, deque(maxlen=call.stream.past.maxlen))
            entries.appendleft(Computed(call.stream.step, Feature(parts, there)))
        return output

    def _verified(self, call: Call, draft: Feature, row: np.ndarray) -> tuple[Any, float]:
        """The network's output from `draft`, and the draft's error by the last block run on its own drafted input."""
        entry = weighted(call.stream.memory[ENTRIES], row)
        parts = iter(entry)
        fed = [next(parts) if there else None for there in entry.form]
        passing = [(place, PassBy(place.module)) for place in self.blocks]
        tails = [
            (place, InjectInput(place.module, part))
            for places, part in zip(self.tails, draft, strict=True)
            for place in places
        ]
        with placed([*passing, (self.judge, FeedStreams(self.judge.module, fed)), *tails]):
            output, live = call.attachment.compute(call.args, call.kwargs)
        if live is None:
            raise AttachError("the final norm was not reached while a draft was verified")
        return output, relative_error(draft, live)


def speca_family(pipe: Any, setup: Setup) -> Family:
    """SpeCa with all its settings."""
    num = setup.num_steps

    def apply(pipe: Any, settings: Settings) -> Applied:
        speculation = Speculation.model_validate({"num_steps": num, **settings})
        speculator = Speculator(speculation, find_transformer(pipe))
        return driven(pipe, speculator.answer, depth=speculation.order + 1)

    axes = (
        Axis("tau", ladder(1e-4, 4, 1.5), (0.0054, 0.027, 0.14)),
        Axis("most", counts(1, num - 1), (8,), closed=True),
        Axis("free", counts(0, num - 1), (1,), closed=True),
        Axis("beta", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.3,), closed=True),
        Axis("W", counts(1, num - 1), (3,), closed=True),
        Axis("O", (1, 2, 3), (1, 2), closed=True),
        Axis("redo", ("next", "step"), closed=True),
    )
    source = "Liu et al. 2025, arXiv 2509.11628; rewritten from the paper and the release's schedule"
    refused = refusal(pipe) or refusal(pipe, CachePoint(kind="blocks"))
    return Family("SpeCa", source, axes, apply, num, allows=lambda s: int(s["free"]) <= int(s["most"]), refused=refused)

"""What guidance makes of a network's outputs, as a scheduler is given it: a weight for each guidance branch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.attach.forwards import Patch, Replacement
from hyca_runtime.stacked import same, stacked_labels

SAMPLED = 65_536
"""Numbers of an output that are looked at."""
RESIDUAL = 1e-2
"""Relative error of a step's least squares: what rounding to 16 bits leaves, and a formula that is not linear does
not."""
SPREAD = 0.01
"""Difference between steps, over the largest weight."""

Weights = list[float]


class GuidanceWatch:
    """Holds what a scheduler is given against what the network returned on the same step.

    Whatever a scheduler or pipeline does, nothing is raised, and nothing waits for the device before `weights` is asked
    for: a step is kept as the products of its outputs.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples, self._in_frames = num_samples, False
        self._outputs: list[tuple[str, Tensor]] = []
        self._steps: list[tuple[list[str], Tensor] | None] = []

    def note(self, branch: str, output: Any, parts: int, in_frames: bool = False) -> None:
        """Keep what the network returned, until the scheduler's next step.

        Args:
            parts: of the batch, each a branch of its own if there are several.
            in_frames: whether it is of chunks that are stepped each on its own, ``(batch, channel, frame, row,
                column)``; then the scheduler is given some of the frames, or one.
        """
        self._in_frames = in_frames
        with _unknown(self._forget):
            pieces = _main(output).detach().chunk(parts)
            found = list(zip(stacked_labels(branch, parts), pieces, strict=True))
            if {label for label, _ in found} & {label for label, _ in self._outputs}:
                self._forget()  # called twice on a step, or no step of the scheduler is seen
            self._outputs += found

    def _forget(self) -> None:
        self._outputs.clear()
        self._steps.append(None)

    @contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Watch the steps of `scheduler` and of its copies, as far as they can be watched."""
        patch: Patch | None = None
        copies = list[_WatchedStep]()
        with suppress(Exception):
            patch = Patch(scheduler, "step", _WatchedStep(scheduler, self._step, copies))
        try:
            yield
        finally:
            for copied in copies:
                copied.remove()
            if patch is not None:
                patch.remove()

    def _step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        outputs, self._outputs = self._outputs, []
        if not outputs:
            return  # another network's step
        if len(outputs) == 1:  # there is nothing to weigh
            self._forget()
            return
        with _unknown(self._forget), torch.no_grad():
            given = args[0] if args else kwargs["model_output"]
            self._steps.append(([branch for branch, _ in outputs], self._products(given, [of for _, of in outputs])))

    def _products(self, given: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Inner products of the outputs, and last of what the scheduler was given, ``(frame, row, row)``.

        NaN if that has parts, as the network's batch has, that are not equal. Of outputs in frames those of each one
        with the first that the scheduler was given: which it is the products tell.
        """
        pieces = given.detach().reshape(-1, self._num_samples, *given.shape[1:])
        first = pieces[0]
        if self._in_frames:
            first = first[:, :, 0] if first.ndim == outputs[0].ndim else first
            frames = [list(of) for of in zip(*(output.unbind(2) for output in outputs), strict=True)]
        else:
            frames = [[_as_large(output, first) for output in outputs]]
        products = torch.stack([_inner([*of, first]) for of in frames])
        return torch.where(same(pieces[1:], pieces[:1]), products, torch.nan)

    def weights(self, branches: Sequence[str]) -> Weights:
        """The weight of each of these branches; empty if there is none that all steps agree on."""
        if len(branches) == 1:
            return [1.0]
        if not self._steps or any(step is None or sorted(step[0]) != sorted(branches) for step in self._steps):
            return []
        known = [step for step in self._steps if step is not None]
        found = list[Weights]()
        for labels, products in known:
            order = [*map(labels.index, branches), len(branches)]
            frames = [of[np.ix_(order, order)] for of in products.cpu().double().numpy()]
            found.append(next(filter(None, map(_solved, frames)), []))
        return agreed(found)


class _WatchedStep(Replacement):
    """The step of a scheduler, and of every copy, for each chunk of a video may have its own.

    Args:
        tell: told the arguments of each.
        copies: where those of copies are put.
    """

    def __init__(
        self, scheduler: Any, tell: Callable[[tuple[Any, ...], Mapping[str, Any]], None], copies: list[_WatchedStep]
    ) -> None:
        inner = scheduler.step

        def step(*args: Any, **kwargs: Any) -> Any:
            tell(args, kwargs)
            return inner(*args, **kwargs)

        super().__init__(scheduler, "step", step)
        self._tell, self._copies = tell, copies

    def __deepcopy__(self, memo: dict[int, Any]) -> _WatchedStep:
        copied = _WatchedStep(copy.deepcopy(self._owner, memo), self._tell, self._copies)  # has none of that name yet
        self._copies.append(copied)
        return copied

    def remove(self) -> None:
        """Give a copy the step of its class back."""
        if vars(self._owner).get("step") is self:
            del self._owner.step


def agreed(found: Sequence[Weights]) -> Weights:
    """The median of weights that were found time and again; empty if they are not the same, or one is unknown."""
    if not found or not all(found) or len(set(map(len, found))) > 1:
        return []
    median = np.median(found, axis=0)
    far = np.abs(np.asarray(found) - median).max() > SPREAD * np.abs(median).max()
    return [] if far else [round(float(weight), 6) for weight in median]


def _solved(products: np.ndarray) -> Weights:
    """Least squares of the last row by the others; empty if it leaves much, or several would do."""
    inner, right, total = products[:-1, :-1], products[:-1, -1], products[-1, -1]
    if not np.isfinite(products).all() or total <= 0 or np.linalg.matrix_rank(inner, hermitian=True) < len(inner):
        return []
    weights = np.linalg.solve(inner, right)
    left = total - 2 * weights @ right + weights @ inner @ weights
    return weights.tolist() if left <= RESIDUAL**2 * total else []


def _main(output: Any) -> Tensor:
    """The first tensor of a network's output, samples first; some return a list of them, one for each sample."""
    if isinstance(output, Tensor):
        return output
    first = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return torch.stack(list(first)) if isinstance(first, list | tuple) else _main(first)


def _as_large(output: Tensor, given: Tensor) -> Tensor:
    """The leading part of an output, as large as what the scheduler is given: variances that are learned come after."""
    if output.numel() == given.numel() or output.ndim != given.ndim:
        return output
    return output[tuple(slice(size) for size in given.shape)]


def _inner(tensors: Sequence[Tensor]) -> Tensor:
    """Inner products of some tensors of one size, ``(row, row)``; a number that is not finite tells nothing."""
    rows = torch.stack([_sampled(each) for each in tensors])
    rows = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)
    rows = (rows * rows.isfinite().all(0)).nan_to_num(0, 0, 0)
    return rows @ rows.T


def _sampled(numbers: Tensor) -> Tensor:
    flat = numbers.reshape(-1)
    return flat[:: -(-len(flat) // SAMPLED)]


@contextmanager
def _unknown(then: Callable[[], None]) -> Iterator[None]:
    """Code that is not ours may return anything: what guidance makes of it is not known then, and the run goes on."""
    try:
        yield
    except Exception:
        then()

"""Telling guidance branches apart where a pipeline does not name them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hyca_runtime.errors import ClockError

MOST = 8
"""Branches without a name that are remembered; the one that was called longest ago is forgotten."""

Likeness = Literal["same", "alike", "other"]
"""The same tensor, one of the same content, or another."""

SAMPLED = 256
"""Numbers of a conditioning by which it is known again when a pipeline makes the same tensor anew."""


@dataclass
class _Conditioning:
    """What a branch was last called with: the tensor itself, and a few numbers of it on its device."""

    tensor: weakref.ref[Tensor]
    shape: torch.Size
    sample: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _Conditioning:
        return cls(weakref.ref(tensor), tensor.shape, _sample(tensor))

    def is_kept_as(self, tensor: Tensor) -> bool:
        return self.tensor() is tensor

    def likeness(self, tensor: Tensor) -> Likeness:
        """Of `tensor` to it."""
        if self.is_kept_as(tensor):
            return "same"
        return "alike" if self.equals(tensor) else "other"

    def equals(self, tensor: Tensor) -> bool:
        """Whether `tensor` has the same content. Waits for the device."""
        return (self.shape, self.sample.dtype, self.sample.device) == (
            tensor.shape,
            tensor.dtype,
            tensor.device,
        ) and torch.equal(self.sample, _sample(tensor))


class Branches:
    """The guidance branches of one run.

    A call is of the branch that it names; else of the branch whose conditioning it has, the same tensor or one
    of the same content, for some pipelines cast their embeddings at every step. Labels of branches without a
    name are "", "#1", "#2" ... in the order of their first call.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Conditioning | None] = {}
        self._steady: set[str] = set()

    def has_changed(self, label: str, likeness: Likeness) -> bool:
        """Whether a branch that had stayed as it was is conditioned by something else; not one that never stays.

        Args:
            likeness: of what its call is conditioned by, see `find`.
        """
        if likeness != "other":
            self._steady.add(label)
            return False
        was_steady = label in self._steady
        self._steady.discard(label)
        return was_steady

    def find(self, name: str, conditioning: Tensor | None) -> tuple[str | None, Likeness]:
        """The label of a call's branch, None if it is new; and how its conditioning is like what it was."""
        if conditioning is None:
            return name, "same"
        if name:
            known = self._known.get(name)
            return name, "other" if known is None else known.likeness(conditioning)
        unnamed = {label: known for label, known in self._known.items() if known is not None and _is_number(label)}
        for label, known in unnamed.items():
            if known.is_kept_as(conditioning):
                return label, "same"
        alike = (label for label, known in unnamed.items() if known.equals(conditioning))
        return next(((label, "alike") for label in alike), (None, "other"))

    def label(self, found: str | None, conditioning: Tensor | None, called: frozenset[str]) -> str:
        """The label of a call that `find` found, remembered with its conditioning.

        Where a conditioning is another one at every step, one branch can still be followed, two cannot.

        Args:
            called: branches that were called on this step already.

        Raises:
            ClockError: there are two such branches.
        """
        label = self._changing(called) if found is None else found
        if label is None:
            label = next(_numbered(i) for i in range(len(self._known) + 1) if _numbered(i) not in self._known)
        known = self._known.pop(label, None)
        if conditioning is not None and (known is None or not known.is_kept_as(conditioning)):
            known = _Conditioning.of(conditioning)
        self._known[label] = known
        unnamed = [label for label in self._known if _is_number(label)]
        if len(unnamed) > MOST:
            del self._known[unnamed[0]]
        return label

    def _changing(self, called: frozenset[str]) -> str | None:
        """The only branch whose latest conditioning is gone and that this step has not called yet."""
        gone = [
            label
            for label, known in self._known.items()
            if known is not None and known.tensor() is None and _is_number(label) and label not in called
        ]
        if len(gone) > 1:
            raise ClockError(
                "guidance branches without a name whose conditioning changes at every step cannot be told apart; "
                "name them: with session.at(branch='cond')"
            )
        return gone[0] if gone else None


def _numbered(number: int) -> str:
    return f"#{number}" if number else ""


def _is_number(label: str) -> bool:
    return label[:1] in ("", "#")


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].clone()

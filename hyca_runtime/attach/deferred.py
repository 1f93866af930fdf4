"""Answers of networks that are not there before somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

from hyca_runtime.errors import AttachError

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments by place and by name."""


class Like(NamedTuple):
    """What is known of a tensor before it is there."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Form(NamedTuple):
    """What is known of an answer before it is there: its leaves, None where they are None, and how they are nested."""

    leaves: tuple[Like | None, ...]
    nesting: TreeSpec


def form_of(answer: Any) -> Form | None:
    """The form of an answer; None if it holds more than tensors."""
    leaves, nesting = tree_flatten(answer)
    if not all(leaf is None or isinstance(leaf, Tensor) for leaf in leaves):
        return None
    likes = (None if t is None else Like(tuple(t.shape), t.stride(), t.dtype, t.device) for t in leaves)
    return Form(tuple(likes), nesting)


class Deferred(Tensor):
    """Stands for one tensor of an answer; any operation on it makes the call."""

    call: KeptCall
    place: int
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001  (as torch asks)

    @classmethod
    def of(cls, call: KeptCall, place: int, like: Like) -> Deferred:
        """The stand-in for the leaf at `place` of the answer."""
        made = cls._make_wrapper_subclass(cls, like.shape, like.stride, dtype=like.dtype, device=like.device)
        made.call, made.place = call, place
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        del types
        return func(*tree_map(settled, args), **tree_map(settled, kwargs or {}))


class KeptCall:
    """A call that was not made yet.

    Args:
        make: makes it.
        form: of its answer.
    """

    def __init__(self, make: Callable[..., Any], form: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._make, self._form = make, form
        self._arguments: Call = tree_map(lambda leaf: leaf, (args, kwargs))  # a caller may change its containers
        self._versions = _versions(self._arguments)
        self._leaves: list[Any] | None = None

    def stand_ins(self) -> Any:
        """The answer with a `Deferred` for every tensor."""
        leaves = [like and Deferred.of(self, place, like) for place, like in enumerate(self._form.leaves)]
        return tree_unflatten(leaves, self._form.nesting)

    def leaves(self) -> list[Any]:
        """Those of the answer; the call is made unless it was.

        Raises:
            AttachError: an argument was changed in place meanwhile, or the answer has another form.
        """
        if self._leaves is None:
            if _versions(self._arguments) != self._versions:
                raise AttachError(
                    "an argument of a ControlNet was changed in place between its call and the network's; "
                    "copy it before, or apply the plan to pipe.transformer instead of the pipeline"
                )
            args, kwargs = self._arguments
            answer = self._make(*args, **kwargs)
            if form_of(answer) != self._form:
                raise AttachError(
                    "a ControlNet answered in another form than to equal arguments before; "
                    "apply the plan to pipe.transformer instead of the pipeline"
                )
            self._leaves, self._arguments = tree_leaves(answer), ((), {})
        return self._leaves


def settled(value: Any) -> Any:
    """`value` with tensors in the places of their stand-ins; the same object where it holds none."""
    if isinstance(value, Deferred):
        return value.call.leaves()[value.place]
    if type(value) is dict:
        new = {key: settled(item) for key, item in value.items()}
        return new if any(new[key] is not item for key, item in value.items()) else value
    if type(value) in (list, tuple):
        items = [settled(item) for item in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def _versions(arguments: Call) -> list[int]:
    return [leaf._version for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]  # noqa: SLF001

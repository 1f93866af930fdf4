"""Caches of diffusers on networks of diffusers that were not prepared for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["cacheable"]


@contextmanager
def cacheable(transformer: Any) -> Iterator[Any]:
    """`transformer` with ``enable_cache``.

    Most networks have it from diffusers' ``CacheMixin``, and their pipelines name the context of each call.
    Others, DiT among them, are given the mixin for the while, with one context for all calls: what a user
    would do by a subclass.
    """
    from diffusers import CacheMixin

    if isinstance(transformer, CacheMixin):
        yield transformer
        return
    plain, own = type(transformer), vars(transformer).get("forward")

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.cache_context("all"):
            return plain.forward(self, *args, **kwargs)

    transformer.__class__ = type(plain.__name__, (CacheMixin, plain), {"forward": forward})
    try:
        yield transformer
    finally:
        transformer.__class__ = plain
        if own is None:  # hooks on the network itself put back a bound method of the class for the while
            vars(transformer).pop("forward", None)

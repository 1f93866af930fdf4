"""Calls of single chunks of a video that are computed again when their gradient is due."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hyca_runtime.attach.chunk_attention import ChunkAttention
from hyca_runtime.streaming.key_store import KeyStore
from hyca_runtime.streaming.retention import Shape
from hyca_runtime.streaming.segment import Segment, joined

Run = Callable[[], Any]


def attending_again(attention: ChunkAttention, run: Run) -> Run:
    """The call that `run` makes, which attends to the same each time, whatever was kept since the first."""
    place = attention.place
    if place is None:
        return run
    known = _KeptOnce(place.store)

    def again() -> Any:
        with attention.at(place._replace(store=known)):
            return run()

    return again


class _KeptOnce(KeyStore):
    """What the first call of a chunk found in a store, layer by layer."""

    def __init__(self, store: KeyStore) -> None:
        self._store, self._starts = store, dict[int, int]()
        self._past = dict[int, Segment]()

    def start(self, chunk: int, frames: int) -> int:
        return self._starts.setdefault(chunk, self._store.start(chunk, frames))

    def exchange(self, at: int, chunk: int, queries: Tensor, own: Segment, shape: Shape) -> Segment:
        if at in self._past:
            return joined([self._past[at], own])
        seen = self._store.exchange(at, chunk, queries, own, shape)
        self._past[at] = seen.first(seen.tokens - own.tokens).detached()
        return seen

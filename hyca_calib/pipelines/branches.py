"""Naming guidance branches, as the runtime does, where a pipeline does not."""

from __future__ import annotations

from torch import Tensor

MOST = 8


class Branches:
    """Tells branches without a name apart by the tensor that conditions them."""

    def __init__(self) -> None:
        self._prompts: dict[str, Tensor] = {}
        self._seen = 0

    def label(self, name: str, prompt: Tensor | None) -> str:
        """`name` if there is one, else "", "#1", "#2" ... in order of appearance."""
        if name or prompt is None:
            return name
        for label, known in self._prompts.items():
            if known is prompt:
                return label
        label = f"#{self._seen}" if self._seen else ""
        self._seen += 1
        self._prompts[label] = prompt
        if len(self._prompts) > MOST:
            del self._prompts[next(iter(self._prompts))]
        return label

"""What computes a network's attention."""

from collections.abc import Iterator
from typing import Any

from diffusers.models import attention_dispatch
from torch import nn


def attention_of(module: nn.Module) -> str:
    """The back ends that a network's attention goes through, as diffusers calls them: ``native``, ``flash``.

    Processors that choose none take the one that diffusers has active; what diffusers does not dispatch is torch's own,
    "native".
    """
    return ", ".join(sorted(set(_backends(module)))) or "native"


def _backends(module: nn.Module) -> Iterator[str]:
    for part in module.modules():
        processor: Any = getattr(part, "processor", None)
        if hasattr(processor, "_attention_backend"):
            chosen = processor._attention_backend or _active()  # noqa: SLF001  (diffusers tells it nowhere else)
            yield str(getattr(chosen, "value", chosen))


def _active() -> Any:
    return attention_dispatch._AttentionBackendRegistry.get_active_backend()[0]  # noqa: SLF001

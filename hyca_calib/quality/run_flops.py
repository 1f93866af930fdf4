"""FLOPs of a run: of its networks, and of what else runs on every step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hyca_runtime.attach.forwards import Patch, Replacement
from hyca_runtime.attach.points import find_components, find_transformers
from hyca_runtime.attach.wrappers import unwrapped
from hyca_runtime.flop_count import count_flops


@dataclass(frozen=True)
class RunFlops:
    """FLOPs of sampling.

    Attributes:
        networks: of the transformers; text encoder and decoder do not count.
        steps: of everything that runs on every step, such as a ControlNet: the transformers among it.
    """

    networks: float = 0.0
    steps: float = 0.0

    def __add__(self, other: "RunFlops") -> "RunFlops":
        return RunFlops(self.networks + other.networks, self.steps + other.steps)

    def shared(self, samples: int) -> "RunFlops":
        """The FLOPs of each of so many samples."""
        return RunFlops(self.networks / samples, self.steps / samples)


def run_flops(pipe: Any, sample: Callable[[], Any]) -> RunFlops:
    """FLOPs while `sample` runs."""
    networks, meter = set(find_transformers(pipe).values()), _Meter()
    others = {unwrapped(module) for module in find_components(pipe).values()} - networks
    patches = [_patched(module, meter.of_network) for module in networks]
    patches += [_patched(module, meter.of_other(module)) for module in others]
    try:
        sample()
    finally:
        for patch in patches:
            patch.remove()
    return RunFlops(meter.networks, meter.networks + sum(meter.others[module] for module in meter.on_steps))


@dataclass
class _Meter:
    """FLOPs by who spends them.

    Attributes:
        others: of each component beside the networks.
        on_steps: those of them that were called between two calls of a network.
    """

    networks: float = 0.0
    others: dict[nn.Module, float] = field(default_factory=dict)
    on_steps: set[nn.Module] = field(default_factory=set)
    _called: set[nn.Module] | None = None

    def of_network(self, call: Callable[[], Any]) -> None:
        """Count a call of a network, but not what others do within it."""
        self.on_steps |= self._called or set()
        self._called = set()
        before = sum(self.others.values())
        self.networks += count_flops(call) - (sum(self.others.values()) - before)

    def of_other(self, module: nn.Module) -> Callable[[Callable[[], Any]], None]:
        """Counts the calls of one other component."""

        def count(call: Callable[[], Any]) -> None:
            if self._called is not None:
                self._called.add(module)
            self.others[module] = self.others.get(module, 0.0) + count_flops(call)

        return count


def _patched(module: nn.Module, count: Callable[[Callable[[], Any]], None]) -> Patch:
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output: list[Any] = []
        count(lambda: output.append(inner(*args, **kwargs)))
        return output[0]

    return Patch(module, "forward", Replacement(module, "forward", forward))

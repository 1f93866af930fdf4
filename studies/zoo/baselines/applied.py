"""How a baseline is put on a network, and how a pipeline then calls it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hyca_calib.pipelines.outputs import tensors_of

COMPUTED = (0, 1, 3, 5)
"""Steps that this project's runtime computes, as the others do with an interval of 2 after two steps."""

Call = Mapping[str, Any]
"""Arguments of a call of the network."""

Outputs = list[list[Tensor]]
"""The tensors that each call of a run returned."""


def bare_outputs(module: nn.Module, calls: Iterable[Call]) -> Outputs:
    """What the network returns with nothing around it."""
    return [tensors_of(module(**call)) for call in calls]


@dataclass(frozen=True)
class Applied:
    """A baseline on one network.

    Attributes:
        run: make the calls of one run as a pipeline does, with all it does before, around and after them.
        remove: switch the baseline off.
        steady: `run` for calls that do not differ, where a baseline cannot tell a run from them.
    """

    run: Callable[[Iterable[Call]], Outputs]
    remove: Callable[[], None]
    steady: Callable[[Iterable[Call]], Outputs] | None = None


@dataclass(frozen=True)
class Way:
    """One way to apply a baseline.

    Attributes:
        notes: what a user must write for it besides the usual call.
        setting: where it differs by network.
    """

    apply: Callable[[nn.Module, Sequence[Call]], Applied]
    notes: tuple[str, ...] = ()
    setting: str = ""


@dataclass(frozen=True)
class Baseline:
    """A method and settings with which it can act on every other step at least.

    Attributes:
        settings: those of the table, in words.
        ways: to apply it to a network, tried in order until one gets through a single run.
        package: what must be installed for it.
    """

    settings: str
    ways: Callable[[nn.Module], list[Way]]
    package: str = "diffusers"

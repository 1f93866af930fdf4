"""Versions of a network's weights that stand in for its own while a call asks for them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch
from torch import nn

from hyca_runtime.attach.balanced import balanced
from hyca_runtime.attach.corrected import Corrected
from hyca_runtime.attach.phased import phased
from hyca_runtime.attach.points import Place, find_block_lists, place_at
from hyca_runtime.attach.proxies import Standing
from hyca_runtime.attach.quantised import bytes_beside
from hyca_runtime.errors import AttachError
from hyca_runtime.schedule import DEFAULT
from hyca_runtime.solvers import Fitted
from hyca_runtime.variant import BITS, VariantSpec

MEMORY = Path("/proc/meminfo")
SCALES = 8
"""Bytes of scales that a row of weights is expected to have."""


@dataclass(frozen=True)
class _Layer:
    """A quantised layer, and what it was made of."""

    place: Place
    own: nn.Linear
    weight: weakref.ref[nn.Parameter]
    version: int
    begins: int
    device: torch.device
    dtype: torch.dtype
    made: nn.Module
    correction: Corrected | None = None

    def corrected(self, rows: Fitted) -> _Layer:
        """The same with its output corrected.

        Raises:
            AttachError: rows of other widths.
        """
        made = Corrected(self.made, rows, self.place.path, self.own.out_features, self.device)
        return replace(self, made=made, correction=made)

    def standing(self, step: int | None) -> tuple[Place, nn.Module]:
        """Who stands where on a step.

        Raises:
            AttachError: the layer, or its weight, is another by now.
        """
        weight = self.own.weight
        kept = self.place.module is self.own and weight is self.weight() and weight._version == self.version  # noqa: SLF001
        if not kept or (weight.device == self.device and weight.data_ptr() != self.begins):
            changed = "was changed"
        elif weight.device != self.device or weight.dtype != self.dtype:
            changed = f"came to {weight.device} in {weight.dtype}"
        else:
            if self.correction is not None:
                self.correction.come_to(step)
            return self.place, self.made
        raise AttachError(f"{self.place.path} {changed} after variants of it were made; apply the plan again")


class Variants:
    """All variants of one network, made at once; they share what two of them quantise alike.

    They are no part of the network: its state dict never shows them, and what moves it does not move them.

    Args:
        specs: by name.

    Attributes:
        nbytes: what they take beside the network's own weights, as stored.

    Raises:
        AttachError: layers that cannot be quantised here, or more bytes than are free. Nothing was changed then.
    """

    def __init__(self, network: nn.Module, specs: Mapping[str, VariantSpec]) -> None:
        self.specs = dict(specs)
        places = {name: find_linears(network, spec.layers) for name, spec in specs.items()}
        self._check_memory(network, places)
        known: dict[tuple[str, str, float, str], _Layer] = {}
        self._layers: dict[tuple[str, int], list[_Layer]] = {}
        for name, spec in specs.items():
            rows, numbers = spec.corrected, range(len(spec.phases))
            self._layers |= {(name, number): [] for number in numbers}
            specs_of = {place: own for place in places[name] if (own := spec.of(place.path)) is not None}
            _check_known(name, "quantises otherwise", spec.schemes or {}, places[name])
            _check_known(name, "corrects", rows, specs_of)
            _check_known(name, "balances", spec.balance or {}, specs_of)
            for number, (place, own) in itertools.product(numbers, specs_of.items()):
                phase = spec.phases[number]
                key = (str(own), str(own.balance), phase, place.path)
                known[key] = known.get(key) or _made(network, place, own, phase)
                layer = known[key].corrected(rows[place.path]) if place.path in rows else known[key]
                self._layers[name, number].append(layer)
        self.nbytes = sum(bytes_beside(layer.made, layer.own) for layer in known.values())

    def stands(self, variant: str, step: int | None = None, turn: int = 0) -> list[Callable[[], Standing]]:
        """What takes the places of the layers of a variant, see `Weights`, as `take_places` wants it.

        Raises:
            AttachError: there is no such variant.
        """
        if variant == DEFAULT:
            return []
        if variant not in self.specs:
            raise AttachError(f"expected a variant of {sorted(self.specs)}, got {variant[:60]!r}; apply its own plan")
        return [partial(_standing, self._layers[variant, turn % len(self.specs[variant].phases)], step)]

    def wrap(self, around: Callable[[nn.Module, nn.Linear], nn.Module]) -> None:
        """Let each quantised layer run inside what `around` makes of it and the network's own."""
        for key, layers in self._layers.items():
            self._layers[key] = [replace(layer, made=around(layer.made, layer.own)) for layer in layers]

    def _check_memory(self, network: nn.Module, places: Mapping[str, list[Place]]) -> None:
        """Whether what all variants will take is free."""
        told = {name: _expected_bytes(of, self.specs[name]) for name, of in places.items()}
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        free = _free_bytes(device) if sum(told.values()) else None
        if free is not None and sum(told.values()) > free:
            each = ", ".join(f"{name!r} {size / 2**20:.0f} MiB" for name, size in told.items())
            raise AttachError(
                f"the plan's variants take {each} beside the network's own weights, {free / 2**20:.0f} MiB are free on "
                f"{device}; apply a plan with fewer of them"
            )


def find_linears(network: nn.Module, pattern: str) -> list[Place]:
    """The plain linear layers inside blocks whose path matches a pattern.

    Raises:
        AttachError: there is none.
    """
    blocks = tuple(f"{items.path}." for items in find_block_lists(network))
    found = [
        place_at(network, path)
        for path, child in network.named_modules(remove_duplicate=False)  # one layer may stand in two places
        if type(child) is nn.Linear and path.startswith(blocks) and fnmatchcase(path, pattern)
    ]
    if not found:
        others = [child for path, child in network.named_modules() if path.startswith(blocks)]
        kinds = {
            type(child).__name__ for child in others if isinstance(child, nn.Linear) and type(child) is not nn.Linear
        }
        told = (
            f"; {', '.join(sorted(kinds))} are others, quantised already perhaps: load the model in full"
            if kinds
            else ""
        )
        raise AttachError(f"{type(network).__name__} has no linear layer in blocks with a path like {pattern!r}{told}")
    return found


def _made(network: nn.Module, place: Place, spec: VariantSpec, phase: float) -> _Layer:
    own = place.module
    if not isinstance(own, nn.Linear):
        raise AttachError(f"expected a linear layer at {place.path}, got {type(own).__name__}")
    weight = own.weight
    if type(weight) is not nn.Parameter or not weight.is_floating_point():
        raise AttachError(f"{place.path} is quantised already, as {type(weight).__name__}; load the model in full")
    parts = place.path.split(".")
    around = (network.get_submodule(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    if weight.is_meta or any("forward" in vars(module) for module in around):
        raise AttachError(
            f"{place.path} is moved or cast for each call; variants need weights that stay where they are"
        )
    shifts = (spec.balance or {}).get(place.path)
    made = phased(own, phase, spec) if shifts is None else balanced(own, shifts, phase, spec, place.path)
    made_of = (weakref.ref(weight), weight._version, weight.data_ptr(), weight.device, weight.dtype)  # noqa: SLF001
    return _Layer(place, own, *made_of, made)


def _check_known(name: str, does: str, paths: Iterable[str], places: Iterable[Place]) -> None:
    if unknown := {*paths} - {place.path for place in places}:
        raise AttachError(f"variant {name!r} {does} {min(unknown)[:60]!r}, which is no layer that it quantises")


def _standing(layers: list[_Layer], step: int | None) -> Standing:
    return [layer.standing(step) for layer in layers]


def _expected_bytes(places: list[Place], spec: VariantSpec) -> int:
    """What a variant takes; one that is simulated rounds the network's own weights, unless they are moved."""
    pairs = [(place, own) for place in places if (own := spec.of(place.path))]
    weights = [(place.module.get_parameter("weight"), own) for place, own in pairs]
    if spec.simulated:
        moved = sum(map(bool, spec.phases))
        return sum(moved * 4 * weight.numel() + (weight.nbytes if own.balance else 0) for weight, own in weights)
    stored = (weight.numel() * BITS[own.scheme][0] // 8 + SCALES * len(weight) for weight, own in weights)
    return len(spec.phases) * sum(stored)


def _free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device, None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not MEMORY.exists():
        return None
    lines = MEMORY.read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)

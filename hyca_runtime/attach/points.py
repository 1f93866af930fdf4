"""Finding the places of a network by structure; nothing is touched here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from hyca_runtime.attach.block_io import block_io
from hyca_runtime.attach.wrappers import unwrapped
from hyca_runtime.errors import AttachError
from hyca_runtime.registry import did_you_mean

BLOCK_LIST = re.compile(r"(?:^|_)(?:blocks|layers|refiner)$")
"""Names of the lists whose members are transformer blocks; other lists hold projections and adapters."""

SIDE_LIST = re.compile(r"^vace_blocks$")
"""Names of the lists whose results single blocks of another list take one by one: they run whole or not at all."""

TAILS = ("norm_out", "final_layer", "final_norm", "out_layer", "all_final_layer", "norm_moe_gen", "head", "proj_out")
"""Names of the module whose first input is the last hidden feature, the first that exists."""

EMBEDDERS = frozenset({"context_embedder", "img_in", "proj_in", "txt_in", "x_embedder"})
"""Names of projections of latents and prompts that only blocks, or the last hidden feature, depend on."""

COMPONENT = re.compile(r"^(?:unconditional_)?transformer(?:_\d+)?$")
"""Names of the networks of a pipeline: Wan 2.2 has two."""

CONTROL = re.compile(r"^controlnet(?:_\d+)?$")
"""Names of the networks that a pipeline runs before them on every step, and whose answers only their blocks see."""


@dataclass(frozen=True)
class Place:
    """A module by its parent and its name there, looked up anew for every call: modules may be replaced."""

    parent: nn.Module
    name: str
    path: str

    @property
    def module(self) -> nn.Module:
        found = self.parent._modules.get(self.name)  # noqa: SLF001  # as setattr would, without its cost
        if found is None:
            raise AttachError(f"{self.path} was taken out of the network after the plan was applied")
        return found

    def put(self, module: nn.Module) -> None:
        """Let `module` be there."""
        self.parent._modules[self.name] = module  # noqa: SLF001


def find_transformers(target: object) -> Mapping[str, nn.Module]:
    """The networks of a diffusers pipeline by component name; a module alone is ``transformer``.

    Raises:
        AttachError: neither.
    """
    if isinstance(target, nn.Module):
        return {"transformer": unwrapped(target)}
    networks = {name: unwrapped(m) for name, m in find_components(target).items() if COMPONENT.match(name)}
    if not networks:
        raise AttachError(
            f"expected a diffusers pipeline with a `transformer`, or an nn.Module, got {type(target).__name__}"
        )
    return networks


def find_components(target: object) -> dict[str, nn.Module]:
    """All modules of a diffusers pipeline by component name, as they are there; of anything else none."""
    components = getattr(target, "components", None)
    names = components if isinstance(components, Mapping) else getattr(target, "__dict__", {})
    found = {name: getattr(target, name, None) for name in names}
    return {name: module for name, module in found.items() if isinstance(module, nn.Module)}


def find_transformer(target: object, component: str = "transformer") -> nn.Module:
    """One network of a pipeline, or `target` itself if it is a module.

    Raises:
        AttachError: no such component.
    """
    networks = find_transformers(target)
    if isinstance(target, nn.Module):
        return networks["transformer"]
    if component not in networks:
        raise AttachError(f"{type(target).__name__} has no {component!r}, only {', '.join(networks)}")
    return networks[component]


def find_block_lists(transformer: nn.Module) -> list[Place]:
    """The lists of transformer blocks: children of the network, or of a dictionary by modality.

    Raises:
        AttachError: there is none.
    """
    lists = []
    for name, child in transformer.named_children():
        if BLOCK_LIST.search(name) and isinstance(child, nn.ModuleDict):
            lists += [Place(child, key, f"{name}.{key}") for key, inner in child.items() if _has_members(inner)]
        elif BLOCK_LIST.search(name) and _has_members(child):
            lists.append(Place(transformer, name, name))
    if not lists:
        raise AttachError(f"{type(transformer).__name__} has no list of blocks; use the point 'output'")
    return lists


def find_embedders(transformer: nn.Module) -> list[Place]:
    """Plain linear projections whose results only the blocks see."""
    return [
        Place(transformer, name, name)
        for name, child in transformer.named_children()
        if name in EMBEDDERS and type(child) is nn.Linear
    ]


def _has_members(child: nn.Module) -> bool:
    return isinstance(child, nn.ModuleList) and len(child) > 0


def find_tail(transformer: nn.Module) -> list[list[Place]]:
    """The modules that receive the last hidden feature, by part.

    A network with a second stream (``audio_norm_out``) has two parts. A part is several places
    where the network picks one of them at each call (a `ModuleDict` by patch size).

    Raises:
        AttachError: none of the known names is there.
    """
    children = dict(transformer.named_children())
    name = next((name for name in TAILS if name in children), None)
    if name is None:
        raise AttachError(
            f"{type(transformer).__name__} has no final norm by one of the names {', '.join(TAILS)}; "
            "use the point 'output', or a span"
        )
    parts = []
    for tail in (name, f"audio_{name}"):
        if tail in children:
            child = children[tail]
            alternatives = list(child) if isinstance(child, nn.ModuleDict) else []
            parts.append(
                [Place(child, key, f"{tail}.{key}") for key in alternatives] or [Place(transformer, tail, tail)]
            )
    return parts


def find_blocks(transformer: nn.Module) -> list[Place]:
    """Every block of every list, in order of declaration.

    Raises:
        AttachError: no list, or blocks whose inputs and outputs are unknown.
    """
    places = [
        Place(items.module, name, f"{items.path}.{name}")
        for items in find_block_lists(transformer)
        for name, _ in items.module.named_children()
    ]
    for place in places:
        block_io(place.module)
    return places


def nth_block(blocks: Place, number: int) -> Place:
    """A block of a list of blocks, counted from 0."""
    name = list(blocks.module._modules)[number]  # noqa: SLF001
    return Place(blocks.module, name, f"{blocks.path}.{name}")


def cut_lists(lists: Sequence[Place], running: int) -> list[tuple[Place, int]]:
    """The lists of which some blocks do not run if only the first `running` of all do, each with how many of it do.

    Raises:
        AttachError: there are no more blocks than that.
    """
    found, total = [], 0
    for place in lists:
        if running and SIDE_LIST.search(place.path):
            continue
        size = len(list(place.module.children()))
        if running < total + size:
            found.append((place, max(0, running - total)))
        total += size
    if not found:
        raise AttachError(
            f"the point 'behind:{running}' needs blocks behind, the network has {total}; so does 'leading:{running}'"
        )
    return found


def find_span(transformer: nn.Module, first: str, last: str) -> list[Place]:
    """Neighbouring blocks from path `first` to path `last`, of one list.

    Raises:
        AttachError: no such modules, not of one list, or blocks whose inputs and outputs are unknown.
    """
    ends = [place_at(transformer, path) for path in (first, last)]
    if ends[0].parent is not ends[1].parent or not isinstance(ends[0].parent, nn.ModuleList):
        raise AttachError(f"a span runs within one list of blocks, '{first}..{last}' does not")
    low, high = (int(end.name) for end in ends)
    if low > high:
        raise AttachError(f"the span '{first}..{last}' ends before it begins")
    head = first.rpartition(".")[0]
    span = [Place(ends[0].parent, str(i), f"{head}.{i}") for i in range(low, high + 1)]
    for place in span:
        block_io(place.module)
    return span


def find_modules(transformer: nn.Module, pattern: str) -> list[Place]:
    """Modules that are called and whose path matches `pattern`, none inside another.

    Raises:
        AttachError: no match.
    """
    found: list[Place] = []
    for path, module in transformer.named_modules():
        inside = any(path.startswith(f"{place.path}.") for place in found)
        called = path and not isinstance(module, nn.ModuleList | nn.ModuleDict)
        if called and not inside and fnmatchcase(path, pattern):
            found.append(place_at(transformer, path))
    if not found:
        raise AttachError(f"no module of {type(transformer).__name__} has a path like {pattern!r}")
    return found


def place_at(transformer: nn.Module, path: str) -> Place:
    """The module at a path.

    Raises:
        AttachError: there is none.
    """
    head, _, name = path.rpartition(".")
    try:
        parent = transformer.get_submodule(head)
        transformer.get_submodule(path)
    except AttributeError as error:
        hint = did_you_mean(path, [known for known, _ in transformer.named_modules()])
        raise AttachError(f"{type(transformer).__name__} has no module {path!r}{hint}") from error
    return Place(parent, name, path)

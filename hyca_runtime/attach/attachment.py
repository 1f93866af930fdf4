"""A network with a handle on its cache points.

Everything that drives a network (the runtime session, the trace recorder, the refinement of taps) does so through
`Attachment.run`: it hands out the features of some points and takes those of others, whose makers then do not run.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from hyca_runtime.attach.bound_leading import BoundLeading
from hyca_runtime.attach.bound_output import BoundOutput
from hyca_runtime.attach.bound_point import Captured, Keeper
from hyca_runtime.attach.bound_points import bind_points
from hyca_runtime.attach.compiling import around, outside
from hyca_runtime.attach.context import Context
from hyca_runtime.attach.deferred import Call, settled
from hyca_runtime.attach.forwards import ForwardSlot, Patch, Replacement
from hyca_runtime.attach.late import Decide, Decision, LateBehind, Staged
from hyca_runtime.attach.other_caches import check_undriven
from hyca_runtime.attach.proxies import Standing, put_back, take_places
from hyca_runtime.attach.variants import Variants
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import FEATURE
from hyca_runtime.variant import OWN, VariantSpec, Weights

Handler = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Answers a call of the network, given its arguments."""

CURE = "call remove() on its session first, which hyca_runtime.session_of(pipe) finds"
_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class Attachment:
    """Lets `handler` answer the calls of `module`, from `install` until `remove`.

    Only the network's own `forward` and `cache_context` are replaced. Calls from several threads take turns.

    Args:
        module: the network, unwrapped from `torch.compile`.
        points: where its features are taken, by name; or one point.
        apart: see `bind_points`.
        variants: versions of its weights that calls may run with, made here and now.

    Attributes:
        turn: while one holds it, nobody stands in for a part of the network.

    Raises:
        AttachError: the network has no such point, or is driven by a cache already. Nothing was changed then.
    """

    def __init__(
        self,
        module: nn.Module,
        points: CachePoint | Mapping[str, CachePoint],
        apart: bool = True,
        variants: Mapping[str, VariantSpec] | None = None,
    ) -> None:
        if module in _attached:
            raise AttachError(f"{type(module).__name__} has a plan applied already; {CURE}")
        check_undriven(module)
        self.module = module
        self.points = {FEATURE: points} if isinstance(points, CachePoint) else dict(points)
        self.context = Context()
        self._slot = ForwardSlot(module)
        self._forward = self._slot.original
        self._bound = bind_points(module, self.points, apart)
        self.variants = Variants(module, variants or {})
        self._patches: list[Patch] = []
        self._handler: Handler | None = None
        self._is_over = False
        self.turn = threading.RLock()
        self._enter = outside(self._put_in)
        self._leave = outside(put_back)
        self._take = outside(self._hand_over)
        self._late: dict[tuple[str, int, str], LateBehind] = {}
        self._enter_late = outside(self._put_gates)
        self._take_late = outside(Decision.hand_over)
        self._settle = outside(self._settled)

    @property
    def point(self) -> CachePoint:
        """The only point."""
        (point,) = self.points.values()
        return point

    def install(self, handler: Handler) -> None:
        """Let `handler` answer every call of the network.

        Under `torch.compile` the frame of `handler` is not traced, what it calls is; see `compiling`.
        """
        self._handler = handler

        def forward(*args: Any, **kwargs: Any) -> Any:
            answer = self._handler
            return answer(args, kwargs) if answer is not None else self._forward(*args, **kwargs)

        for function in (Replacement.__call__, forward, handler, self.run, self.run_late, self.compute, self.predict):
            around(function)
        self._slot.put(forward)
        self._patches = self.context.listen(self.module)
        if hasattr(self.module, "enable_cache"):
            refuse = Replacement(self.module, "enable_cache", self._refuse)
            self._patches.append(Patch(self.module, "enable_cache", refuse))
        _attached.add(self.module)

    def remove(self, *, for_good: bool = False) -> None:
        """Restore the network exactly, under whatever hooks were put on it meanwhile, once no call is being answered.

        Nothing but the network itself is run any more `for_good`, not even by calls that wait for their turn. Where
        something unknown wrapped the network's forward, our link in that chain stays and hands every call through.
        """
        with self.turn:
            self._handler, self._is_over = None, for_good
            self._slot.restore()
            while self._patches:
                self._patches.pop().remove()
            self.variants = Variants(self.module, {})  # their memory is free at once, whoever still holds on to this
            _attached.discard(self.module)

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise AttachError(f"{type(self.module).__name__} has a plan applied; {CURE}")

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        capture: Iterable[str],
        inject: Mapping[str, Feature],
        keep: Keeper | None = None,
        weights: Weights = OWN,
    ) -> tuple[Any, Captured]:
        """Run what a call needs, after calls of ControlNets that were kept for it, unless no block runs.

        Args:
            capture: points whose features are handed out.
            inject: features of the points whose tensors are forecast; what only makes those does not run.
            keep: told the captured features, never inside a compiled graph.
            weights: that run.

        Returns:
            The network's output, and the feature at each captured point; None for a call that never came there, as
            one that only fills a cache of keys and values.
        """
        for name in inject:
            if isinstance(whole := self._bound[name], BoundOutput):
                return whole.output(inject[name]), {}
        args, kwargs = self._settle(args, kwargs, inject)
        with self.turn:
            if self._is_over:
                return self._forward(*args, **kwargs), {}
            own = self._enter(capture, inject, weights)
            try:
                output = self._forward(*args, **kwargs)
                return output, self._take(output, capture, keep)
            finally:
                self._leave(own)

    def run_late(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        blocks: int,
        decide: Decide | Staged,
        keep: Keeper,
        name: str | None = None,
        weights: Weights = OWN,
    ) -> Any:
        """Run the leading blocks, then the others or a forecast in their place; returns the network's output.

        Args:
            blocks: how many lead.
            decide: gives the forecast on the way, or None to compute, perhaps of a span before; it is handed the
                features of the points of leading blocks.
            keep: told the features of all other points, if they were computed.
            name: of the point that is forecast, ``behind`` as many blocks or the trunk's residual; None for the one.
            weights: see `run`.
        """
        args, kwargs = self._settle(args, kwargs, ())
        with self.turn:
            if self._is_over:
                return self._forward(*args, **kwargs)
            decision, own = self._enter_late(blocks, decide, name, weights)
            try:
                output = self._forward(*args, **kwargs)
                self._take_late(decision, output, keep)
            finally:
                self._leave(own)
        return output

    def late(self, blocks: int, name: str | None = None, span: str = "") -> LateBehind:
        """Where a call with so many leading blocks decides whether a point is forecast, or a span before, too.

        Raises:
            AttachError: the network cannot be probed so.
        """
        point = self.point if name is None else self.points[name]
        key = (point.kind, blocks, span)
        if key not in self._late:
            leading = [name for name, at in self.points.items() if at.kind == "leading" and at.leading <= blocks]
            self._late[key] = LateBehind(self.module, blocks, point.kind == "trunk", self._bound, leading, span)
        return self._late[key]

    def _put_gates(
        self, blocks: int, decide: Decide | Staged, name: str | None, weights: Weights
    ) -> tuple[Decision, list[Standing]]:
        late = self.late(blocks, name, decide.span if isinstance(decide, Staged) else "")
        decision = late.begin(decide)
        return decision, take_places([*self.variants.stands(*weights), *late.stands(decision)])

    def _settled(self, args: tuple[Any, ...], kwargs: dict[str, Any], inject: Iterable[str]) -> Call:
        """The arguments, with calls made of which a block may look at the answer."""
        return (args, kwargs) if any(self.points[name].skips_loop for name in inject) else settled((args, kwargs))

    def _put_in(self, capture: Iterable[str], inject: Mapping[str, Feature], weights: Weights) -> list[Standing]:
        """Let who injects stand around who captures in the same place: that is what the network goes on with.

        Around both stands who captures what comes into a block, which may be passed by.
        """
        captures = [self._bound[name] for name in capture]
        inner = [point.captures for point in captures if not isinstance(point, BoundLeading)]
        outer = [point.captures for point in captures if isinstance(point, BoundLeading)]
        between = (partial(self._bound[name].injectors, feature) for name, feature in inject.items())
        return take_places([*self.variants.stands(*weights), *inner, *between, *outer])

    def _hand_over(self, output: Any, capture: Iterable[str], keep: Keeper | None) -> Captured:
        found = {name: self._bound[name].captured(output) for name in capture}
        if keep is not None:
            keep(found)
        return found

    def compute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Feature | None]:
        """Run the network in full; returns its output and the feature at the only point, see `run`."""
        (name,) = self.points
        output, found = self.run(args, kwargs, (name,), {})
        return output, found[name]

    def predict(self, feature: Feature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run only what lies behind the only point, on `feature`."""
        (name,) = self.points
        return self.run(args, kwargs, (), {name: feature})[0]

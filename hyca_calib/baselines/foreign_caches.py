"""Caches of others on a pipeline: switched on for the while, and whatever they did is undone.

Some leave a bound `forward` behind, some put a network's lists of blocks back in another order, which caches that read
that order then take for another network.
"""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.trace.scheduler_response import noise_levels
from hyca_runtime.attach.clock import Clock


def hook_registries(network: nn.Module) -> list[Any]:
    """Where diffusers keeps the hooks of the network's modules."""
    attributes = [vars(module) for module in network.modules()]
    return [of_module["_diffusers_hook"] for of_module in attributes if "_diffusers_hook" in of_module]


@contextmanager
def untouched(pipe: Any) -> Iterator[None]:
    """`pipe` gets back its attributes and methods, and its networks the modules, order, classes, methods and hooks."""
    kind = type(pipe)
    networks = [part for part in vars(pipe).values() if isinstance(part, nn.Module)]
    modules = [module for network in networks for module in network.modules()]
    registries = [registry for network in networks for registry in hook_registries(network)]
    methods, restorers = dict(vars(kind)), [_restorer(owner) for owner in (pipe, *modules, *registries)]
    try:
        yield
    finally:
        for restore in restorers:
            restore()
        for name in vars(kind).keys() - methods.keys():
            delattr(kind, name)
        for name, method in methods.items():
            if vars(kind).get(name) is not method:
                setattr(kind, name, method)


def _restorer(owner: Any) -> Callable[[], None]:
    """Gives an object its class and attributes back, and its dictionaries and lists what they hold now."""
    kind, attributes = type(owner), dict(vars(owner))
    held = [
        (value, copy.copy(value))
        for value in attributes.values()
        if type(value) in (dict, OrderedDict, list)  # tensors and modules have a content that nobody changes
    ]

    def restore() -> None:
        owner.__class__ = kind
        vars(owner).clear()
        vars(owner).update(attributes)
        for value, content in held:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)

    return restore


@contextmanager
def cached(pipe: Any, config: str, **options: Any) -> Iterator[Any]:
    """The pipeline with a cache of diffusers on its transformer, which is given.

    Args:
        config: the class of diffusers that the cache is told by, given `options`.
    """
    import diffusers

    with cacheable(pipe) as transformer:
        transformer.enable_cache(getattr(diffusers, config)(**options))
        try:
            yield transformer
        finally:
            transformer.disable_cache()


@contextmanager
def cacheable(pipe: Any) -> Iterator[Any]:
    """The transformer of `pipe` with ``enable_cache``, told of every call where in the run it is.

    Most networks have it from diffusers' ``CacheMixin``, and their pipelines name the context of each call; not all
    pipelines say the step there, as WanPipeline does, so what they leave out is read from the scheduler. Other
    networks, DiT among them, are given the mixin for the while, with one context for all calls: what a user would do
    by a subclass. Afterwards the network is as it was.
    """
    from diffusers import CacheMixin

    with untouched(pipe):
        transformer, clock = pipe.transformer, Clock(pipe.transformer)
        plain: Any = type(transformer)
        if isinstance(transformer, CacheMixin):
            inner: Callable[..., AbstractContextManager[None]] = transformer.cache_context

            def cache_context(name: str, **fields: Any) -> AbstractContextManager[None]:
                return inner(name, **{**_moment(pipe, None), **fields})

            transformer.cache_context = cache_context
        else:

            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                with self.cache_context("all", **_moment(pipe, clock.timestep(args, kwargs).read()[0])):
                    return plain.__call__(self, *args, **kwargs)

            transformer.__class__ = type(plain.__name__, (CacheMixin, plain), {"__call__": call})
        yield transformer


def _moment(pipe: Any, time: float | None) -> dict[str, Any]:
    """Step, number of steps and noise level, as far as the scheduler tells them.

    Args:
        time: of the call, for schedulers that do not keep their place.
    """
    scheduler: Any = getattr(pipe, "scheduler", None)
    times = getattr(scheduler, "timesteps", None)
    if times is None:
        return {}
    times = times.tolist()
    index = getattr(scheduler, "step_index", None)
    if index is None:
        index = times.index(time) if time in times else 0
    if index >= len(times) or not (hasattr(scheduler, "alphas_cumprod") or hasattr(scheduler, "sigmas")):
        return {}
    sigma = float(noise_levels(scheduler, times)[index])
    return {"step_index": index, "num_inference_steps": len(times), "sigma": sigma}


@contextmanager
def timed(pipe: Any, config: str, unit: float, turned: bool = False, **options: Any) -> Iterator[None]:
    """A cache that asks for the current timestep, in a pipeline that need not tell it.

    Every guidance branch keeps results of its own: the hooks of both methods have one state for all calls (diffusers,
    hooks/pyramid_attention_broadcast.py and hooks/faster_cache.py, `self.state`), so where the branches are calls one
    after the other, one would be given the results of the other.

    Args:
        config, options: see `cached`.
        unit: what the network's time is multiplied with to run from about 1000 down.
        turned: whether the halves of the batch are exchanged for the method.
    """
    clock, now = Clock(pipe.transformer), 1000.0

    def overhear(_network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal now
        now = clock.timestep(args, kwargs).read()[0] * unit
        if not turned:
            return None
        return tuple(map(_exchanged, args)), {name: _exchanged(value) for name, value in kwargs.items()}

    with ExitStack() as stack:
        logger = logging.getLogger("diffusers.hooks.faster_cache")  # it warns at every use that it is experimental
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        transformer = stack.enter_context(cached(pipe, config, **options, current_timestep_callback=lambda: now))
        transformer.register_forward_pre_hook(overhear, with_kwargs=True)  # taken off with the cache
        if turned:
            transformer.register_forward_hook(lambda _network, _args, output: _turned_back(output))
        _keep_branches_apart(transformer)
        yield


def _exchanged(value: Any) -> Any:
    """The second half of a batch first."""
    if not isinstance(value, Tensor) or not value.ndim or len(value) % 2:
        return value
    return torch.cat(value.chunk(2)[::-1])


def _turned_back(output: Any) -> Any:
    if isinstance(output, tuple):
        return (_exchanged(output[0]), *output[1:])
    output.sample = _exchanged(output.sample)
    return output


def _keep_branches_apart(transformer: Any) -> None:
    """Hooks whose state is one for all calls get one for every name that the pipeline gives to a call."""
    registries = hook_registries(transformer)
    hooks = [hook for registry in registries for hook in registry.hooks.values() if hasattr(hook, "state")]
    states: dict[tuple[Any, str], Any] = {}
    inner = transformer.cache_context

    def cache_context(name: str, **fields: Any) -> AbstractContextManager[None]:
        for hook in hooks:
            hook.state = states.setdefault((hook, name), type(hook.state)())
        return inner(name, **fields)  # type: ignore[no-any-return]

    def forget(own: Callable[[nn.Module], Any], module: nn.Module) -> Any:
        states.clear()
        return own(module)

    transformer.cache_context = cache_context
    for hook in hooks:
        hook.reset_state = partial(forget, hook.reset_state)

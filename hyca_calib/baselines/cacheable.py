"""Caches of diffusers on networks of diffusers that were not prepared for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from hyca_calib.baselines.untouched import untouched
from hyca_runtime.attach.clock import Clock

__all__ = ["cacheable", "cached"]


@contextmanager
def cached(pipe: Any, config: Any) -> Iterator[None]:
    """The pipeline with a cache of diffusers on its transformer."""
    with cacheable(pipe) as transformer:
        transformer.enable_cache(config)
        try:
            yield
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
            yield transformer
            return

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self.cache_context("all", **_moment(pipe, clock.timestep(args, kwargs)[0])):
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
        index = 0 if time is None else next((i for i, t in enumerate(times) if t == time), 0)
    if index >= len(times):
        return {}
    if hasattr(scheduler, "alphas_cumprod"):
        kept = float(scheduler.alphas_cumprod[int(times[index])])
        signal, noise = kept**0.5, (1 - kept) ** 0.5
        sigma = noise / (signal + noise)  # of the flow that has the same ratio of noise to signal
    elif hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[index])
    else:
        return {}
    return {"step_index": index, "num_inference_steps": len(times), "sigma": sigma}

"""Reading the time of a network call.

Three sources: the step the caller says, the diffusers scheduler of the pipeline (its grid is read
from the device once for each run, its index is a number on the host), and the timestep the network
is called with. Reading that last one from a GPU waits for the GPU. Calls are never counted.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from hyca_runtime.attach.context import Context
from hyca_runtime.attach.timestep import SchedulerGrid, Timestep

TIMESTEPS = ("timestep", "timesteps", "t", "vision_timesteps")
PROMPTS = (
    "encoder_hidden_states",
    "prompt_embeds",
    "cap_feats",
    "text_bth",
    "context",
    "encoder_hidden_states_t5",
    "input_ids",
    "class_labels",
)
"""Usual names of the conditioning that tells guidance branches apart."""

CACHES = ("kv_cache", "past_key_values", "crossattn_cache", "kv_cache_flag", "current_start", "cache_start")
"""Usual names of what a call is handed of the keys and values of the past, and where that ends."""

KV_CACHE_READERS = frozenset({"cached", "inject"})
"""Values of ``kv_cache_mode`` that leave the cache as it is."""


class Arguments:
    """Looks arguments of a network's forward up by name."""

    def __init__(self, module: nn.Module) -> None:
        self._place = {name: i for i, name in enumerate(inspect.signature(module.forward).parameters)}

    def known(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self._place]

    def place(self, name: str) -> int:
        """Which argument has a known name."""
        return self._place[name]

    def get(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in kwargs:
            return kwargs[name]
        at = self._place[name]
        return args[at] if at < len(args) else None


class Clock:
    """Tells the time of calls of one network.

    Args:
        module: the network; its forward must take a timestep, by one of the usual names.
        pipe: the pipeline that drives it, if known; its scheduler may be replaced at any time.
        context: where a thread may say another one.
    """

    def __init__(self, module: nn.Module, pipe: Any = None, context: Context | None = None) -> None:
        self._kind = type(module).__name__
        self._arguments = Arguments(module)
        self._timestep = next(iter(self._arguments.known(TIMESTEPS)), None)
        self._prompts = self._arguments.known(PROMPTS)
        self._caches = self._arguments.known(CACHES)
        self._cache_modes = self._arguments.known(("kv_cache_mode", "kv_cache_flag"))
        self._pipe = _loosely(pipe)
        self._context = context or Context()
        self._kept = _Kept()
        self._users: tuple[Callable[[], Any], set[int]] = (lambda: None, set())

    def timestep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Timestep:
        """The timestep of a call, not read yet."""
        value = self._arguments.get(self._timestep, args, kwargs) if self._timestep else None
        self._kept.now = now = Timestep(
            value,
            f"{self._kind} was called without a timestep (an argument named {', '.join(TIMESTEPS)}); "
            "say the step: with session.at(step)",
        )
        return now

    def prompt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The tensor that conditions a call, by which guidance branches without a name are told apart."""
        for name in self._prompts:
            value = self._arguments.get(name, args, kwargs)
            while isinstance(value, list | tuple) and value:
                value = value[0]
            if isinstance(value, Tensor):
                return value
        return None

    @property
    def pipe(self) -> Any:
        """The pipeline that drives this thread's calls, None if it is not known or gone."""
        return self._context.said.pipe or self._pipe()

    @property
    def _scheduler(self) -> Any:
        return getattr(self.pipe, "scheduler", None)

    def batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """How many samples, guidance halves counted, a call has: the length of its first argument."""
        latents = args[0] if args else next(iter(kwargs.values()))
        return len(latents)

    def fills_cache(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call must run in full because it fills a cache of keys and values on the way."""
        for name in self._cache_modes:
            mode = self._arguments.get(name, args, kwargs)
            if isinstance(mode, dict):
                mode = "fill" if mode.get("is_cache_step") else None
            if mode is not None and str(mode) not in KV_CACHE_READERS:
                return True
        return False

    def chunk(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """Which chunk of a video a call is of, by how many there are in its cache; None if it does not say."""
        for name in self._cache_modes:
            mode = self._arguments.get(name, args, kwargs)
            if isinstance(mode, dict) and not mode.get("is_cache_step"):
                found = mode.get("num_cached_chunks")
                return found if isinstance(found, int) else None
        return None

    def without_caches(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments but for keys and values of the past."""
        places = {self._arguments.place(name) for name in self._caches}
        kept = tuple(value for place, value in enumerate(args) if place not in places)
        return kept, {name: value for name, value in kwargs.items() if name not in CACHES}

    def grid(self) -> SchedulerGrid | None:
        """The scheduler's timesteps, None if it has no list of them, set none yet, or does not say where it is.

        A scheduler that this thread did not say is trusted only while no other thread calls the network in its run.
        """
        scheduler = self._scheduler
        timesteps = getattr(scheduler, "timesteps", None)
        if not isinstance(timesteps, Tensor) or timesteps.ndim != 1 or not hasattr(scheduler, "step_index"):
            return None
        if _is_untouched(scheduler) or (self._context.said.pipe is None and not self._is_mine(timesteps)):
            return None
        grids = self._kept.grids
        return grids.get(timesteps) or grids.setdefault(timesteps, SchedulerGrid(timesteps))

    def _is_mine(self, timesteps: Tensor) -> bool:
        """Whether only this thread has asked since these timesteps were set; that is always before the first step."""
        if self._users[0]() is not timesteps:
            self._users = (weakref.ref(timesteps), set())
        users = self._users[1]
        users.add(threading.get_ident())
        return len(users) == 1

    def sampler(self) -> str:
        """The name of the scheduler that drives this thread's calls, "" if none is known to.

        One that does not say where it is, is believed to.
        """
        scheduler = self._scheduler
        silent = isinstance(getattr(scheduler, "timesteps", None), Tensor) and not hasattr(scheduler, "step_index")
        silent = silent and not _is_untouched(scheduler)
        return sampler_name(scheduler) if silent or self.grid() is not None else ""

    def index(self) -> int:
        """The scheduler's place in its grid.

        Before its first step one that was not told where it begins (video to video) is where the latest call's time is.
        """
        scheduler = self._scheduler
        for place in (scheduler.step_index, getattr(scheduler, "begin_index", None)):
            if place is not None:
                return int(place)
        grid, now = self.grid(), self._kept.now
        return grid.place_of(now) if grid is not None and now is not None and now.is_given else 0

    def ahead(self) -> list[float]:
        """The scheduler's own timesteps from where it is on, as far as it says them."""
        grid = self.grid()
        return grid.times[self.index() :] if grid is not None else []

    def scheduler_time(self) -> float | None:
        """The scheduler's own timestep now, None if it does not say it or has left its grid behind."""
        return next(iter(self.ahead()), None)


class _Kept(threading.local):
    """What a thread's calls showed: the time of the latest, and the grids of schedulers, which may take turns."""

    def __init__(self) -> None:
        self.now: Timestep | None = None
        self.grids: MutableMapping[Tensor, SchedulerGrid] = WeakTensorKeyDictionary()


def sampler_name(scheduler: Any) -> str:
    """The class of a scheduler, and whether it draws noise at every step where its class leaves that open."""
    config = getattr(scheduler, "config", None)
    told: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    draws = told.get("stochastic_sampling") or str(told.get("algorithm_type")).startswith("sde-")
    return type(scheduler).__name__ + (" with noise" if draws else "")


def _is_untouched(scheduler: Any) -> bool:
    """Whether a scheduler still has the timesteps of its training, for no run has set any."""
    trained = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
    return getattr(scheduler, "num_inference_steps", None) is None and len(scheduler.timesteps) == trained


def _loosely(value: Any) -> Callable[[], Any]:
    """What gives `value`, or None once it is gone; of what cannot be referred to weakly, always `value`."""
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value

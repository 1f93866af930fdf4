"""vLLM-Omni: a plan as a cache backend, ``--cache-backend hyca --cache-config '{"plan": "plan.json"}'``.

Its selector has a fixed list of names, so `register` puts one before it that knows ``hyca``; vLLM-Omni calls that in
each of its processes, since this distribution names it among ``vllm_omni.general_plugins``.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Mapping
from typing import Any, get_args

from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import PlanError
from hyca_runtime.integrations.hosted_plan import hosted
from hyca_runtime.integrations.hosts import TESTED
from hyca_runtime.plan import load_plan
from hyca_runtime.registry import did_you_mean
from hyca_runtime.session import Session

NAME = "hyca"
"""Of the backend."""

SELECTOR = "vllm_omni.diffusion.cache.selector"
RUNNER = "vllm_omni.diffusion.worker.diffusion_model_runner"
"""Who has taken the selector's function by name, if it was imported before."""

KEYS = ("plan", "on_mismatch")
"""What may be in ``--cache-config``."""

logger = logging.getLogger(__name__)


class HycaBackend:
    """Follows a plan; its methods are those of vLLM-Omni's ``CacheBackend``.

    Attributes:
        config: as vLLM-Omni gave it.
        enabled: whether pipelines follow the plan.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.enabled = config, False
        self._session: Session | None = None

    def enable(self, pipeline: Any) -> None:
        """Let a pipeline's networks follow the plan of the configuration; nothing is changed if this fails.

        Raises:
            PlanError: the configuration names no plan, or has other settings; there is no sound plan; or it is for
                other networks.
            AttachError: a network cannot be wrapped.
        """
        path, on_mismatch = _settings(self.config)
        plan, networks = hosted(load_plan(path), pipeline, lambda _network: _checkpoint(pipeline), "vLLM-Omni")
        before = self._session
        self.disable(pipeline)
        try:
            self._session = Session(networks, plan, on_mismatch, pipeline)
        except BaseException:
            if before is not None:
                self._session, self.enabled = Session(networks, before.plan, before.on_mismatch, pipeline), True
            raise
        self.enabled = True

    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None:
        """Forget the run before, and say in the log what it did. Runs that this is not called for begin anew, too."""
        del pipeline, num_inference_steps
        if self._session is None:
            return
        report = self._session.report()
        if verbose and report.steps:
            logger.info("the run before: %s", report)
        self._session.reset()

    def is_enabled(self) -> bool:
        """Whether pipelines follow the plan."""
        return self.enabled

    def disable(self, pipeline: Any) -> None:
        """Restore the networks exactly."""
        del pipeline
        if self._session is not None:
            self._session.remove()
        self._session, self.enabled = None, False

    def report(self) -> str:
        """What the latest run did, in words."""
        return "no plan is followed" if self._session is None else str(self._session.report())


def _settings(config: Any) -> tuple[str, OnMismatch]:
    """The path of the plan, and what runs on other grids do.

    Args:
        config: a mapping, or vLLM-Omni's ``DiffusionCacheConfig``, which keeps keys that it does not know apart.
    """
    told: Mapping[str, Any] = config if isinstance(config, Mapping) else getattr(config, "_extra_params", {})
    unknown = sorted(told.keys() - {*KEYS})
    if unknown:
        raise PlanError(f"--cache-config: unknown key {unknown[0]!r}{did_you_mean(unknown[0], [*KEYS])}")
    path, on_mismatch = told.get("plan"), told.get("on_mismatch", "compute")
    if not isinstance(path, str):
        raise PlanError(f"""--cache-config: expected '{{"plan": "plan.json"}}', the path of a plan, got {dict(told)}""")
    if on_mismatch not in get_args(OnMismatch):
        raise PlanError(f"--cache-config: on_mismatch: expected one of {get_args(OnMismatch)}, got {on_mismatch!r}")
    return path, on_mismatch


def _checkpoint(pipeline: Any) -> Mapping[str, Any] | None:
    """The ``config.json`` of a pipeline's transformer, the only one that vLLM-Omni keeps."""
    kept = getattr(getattr(pipeline, "od_config", None), "tf_model_config", None)
    content = getattr(kept, "params", None)
    return content if isinstance(content, Mapping) and content else None


def register() -> None:
    """Make ``hyca`` a name of a cache backend; a second call does nothing.

    Where vLLM-Omni is another one than expected, the log says so, the name stays unknown, and all else works.
    """
    try:
        selector = importlib.import_module(SELECTOR)
        inner = selector.get_cache_backend
    except (ImportError, AttributeError) as error:
        expected = f"vllm-omni=={TESTED['vllm-omni']}"
        logger.warning("no cache backend 'hyca': %s; this adapter was written against %s", error, expected)
        return
    if getattr(inner, "knows_plans", False):
        return

    @functools.wraps(inner)
    def get_cache_backend(cache_backend: str | None, cache_config: Any) -> Any:
        return HycaBackend(cache_config) if cache_backend == NAME else inner(cache_backend, cache_config)

    get_cache_backend.knows_plans = True  # type: ignore[attr-defined]
    for module in (selector, sys.modules.get(RUNNER)):
        if module is not None:
            module.get_cache_backend = get_cache_backend  # type: ignore[attr-defined]

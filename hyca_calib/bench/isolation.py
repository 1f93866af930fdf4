"""Every method runs on a network that is proven untouched: what one leaves behind must not judge the next."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_runtime.attach.points import find_transformers

PROBE_STEPS = 4
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs")
OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook", *HOOKS)


def fingerprint(pipe: Any, job: Job) -> dict[str, str]:
    """Digests of what a method must not change of a pipeline, by what they are of.

    The module tree: every module's name, order, class, forward, hooks and attributes, and the pipeline's parts. A full
    run: the final latents of one sample after `PROBE_STEPS` steps, bit by bit.
    """
    latents = sample_latents(pipe, [job], PROBE_STEPS, 1)
    seen = {"module tree": json.dumps(list(_tree(pipe))).encode(), "full run": latents.cpu().numpy().tobytes()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in seen.items()}


def _tree(pipe: Any) -> Iterator[list[str]]:
    yield ["pipeline", _code(type(pipe), "__call__"), type(pipe.scheduler).__qualname__]
    yield ["pipeline", *sorted(name for name in vars(pipe) if not name.startswith("__"))]
    for component, network in find_transformers(pipe).items():
        for name, module in network.named_modules(remove_duplicate=False):
            yield [component, name, *_facts(module)]


def _facts(module: nn.Module) -> Iterator[str]:
    kind = type(module)
    yield f"{kind.__module__}.{kind.__qualname__}"
    yield _code(kind, "forward")
    yield from (f"{name}: {len(getattr(module, name))}" for name in HOOKS)
    for name, value in sorted(vars(module).items()):
        if name == "_diffusers_hook":  # the registry may stay, what it holds may not
            if value.hooks:
                yield f"{name}: {', '.join(value.hooks)}"
        elif name not in OWN:
            yield f"{name}: {getattr(value, '__qualname__', type(value).__qualname__)}"


def _code(kind: type, method: str) -> str:
    """The name of the function that answers a call; a patch of the class shows here."""
    function = getattr(kind, method)
    inner = getattr(function, "__wrapped__", function)
    return f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', '')}"


class CleanPipeline:
    """A pipeline that is made anew when a method has changed it.

    Args:
        make: a fresh pipeline, always the same.

    Raises:
        RuntimeError: two full runs differ.
    """

    def __init__(self, make: Callable[[], Any], job: Job) -> None:
        self._make, self._job = make, job
        self._renew()
        self._clean = fingerprint(self.pipe, job)
        if what := self._changed():
            raise RuntimeError(f"two full runs of the untouched model differ in their {what}: nothing can be proven")

    def prove(self) -> str:
        """Whether the pipeline is as it was made: "" if so, else what differs; it is made anew then.

        Raises:
            RuntimeError: a new one differs, too: something outside the pipeline was changed.
        """
        if what := self._changed():
            self._renew()
            if still := self._changed():
                raise RuntimeError(
                    f"a newly made pipeline differs in its {still}: a method changed a class; start the process again, "
                    "what was measured is kept"
                )
        return what

    def _renew(self) -> None:
        self.pipe = self._make()
        fingerprint(self.pipe, self._job)  # the first run may leave caches of the model's own

    def _changed(self) -> str:
        now = fingerprint(self.pipe, self._job)
        return " and ".join(name for name, digest in self._clean.items() if digest != now[name])

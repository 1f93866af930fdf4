"""What a pipeline must take and what a call may say, held against the signature before anything is sampled."""

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyca_calib.pipelines.pipeline import Pipeline
from hyca_runtime.errors import WorkloadError
from hyca_runtime.registry import did_you_mean

NEEDED = ("num_inference_steps", "generator", "output_type", "return_dict")
"""What every call is given by HyCa."""
RESERVED = {
    "num_inference_steps": "the number of steps is --steps",
    "generator": "noise comes of --seed",
    "output_type": "HyCa asks for latents and for finished samples itself",
    "return_dict": "HyCa reads what is returned itself",
    "callback_on_step_end": "HyCa watches the steps itself",
    "callback_on_step_end_tensor_inputs": "HyCa watches the steps itself",
}
"""Arguments that HyCa gives, and why nobody else can."""
PER_PROMPT = re.compile(r"num_\w+_per_prompt")


def refuse_reserved(call: Mapping[str, Any], where: str) -> None:
    """Raises WorkloadError if arguments found at `where` would be overridden."""
    for key, value in call.items():
        why = RESERVED.get(key)
        if PER_PROMPT.fullmatch(key) and value != 1:
            why = "every sample has noise of its own; for more of each prompt raise --samples"
        if why:
            raise WorkloadError(f"{where}: {key} cannot be given here, {why}; leave it out")


def check_pipeline(pipe: object) -> None:
    """Raises WorkloadError unless the pipeline's call takes what HyCa gives."""
    taken, takes_all = _parameters(pipe)
    if missing := [name for name in NEEDED if name not in taken and not takes_all]:
        raise WorkloadError(
            f"the call of {type(pipe).__name__} takes no {', no '.join(missing)}; expected those of diffusers' "
            f"pipelines, {', '.join(NEEDED)}: write a pipeline around it that has them"
        )


def check_calls(pipe: object, calls: Sequence[Mapping[str, Any]]) -> None:
    """Raises WorkloadError unless the pipeline can be called with the arguments of each of these prompts."""
    taken, takes_all = _parameters(pipe)
    own, _ = _named(type(pipe).__call__)
    asked = [name for name, p in own.items() if p.default is p.empty and name not in NEEDED]
    kind = type(pipe).__name__
    for number, call in enumerate(calls, 1):
        refuse_reserved(call, f"prompt {number}")
        known = [name for name in taken if name not in RESERVED]
        unknown = {key: did_you_mean(key, known) for key in sorted(call.keys() - taken.keys())}
        for key, hint in unknown.items():
            if hint != ".":
                raise WorkloadError(f"prompt {number}: {kind} takes no {key!r}{hint}")
        if missing := [name for name in asked if name not in call]:
            need = f"cannot be called without {', '.join(missing)}; a .jsonl file holds arguments of every name"
            raise WorkloadError(f"prompt {number}: {kind} {need}")
        if unknown and not takes_all:
            raise WorkloadError(f"prompt {number}: {kind} takes no {', no '.join(map(repr, unknown))}")


def told(error: BaseException) -> str:
    """An error of code that is not ours in one line, with the place where it was raised."""
    first = next(iter(str(error).splitlines()), "")[:200]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{place}"


def takes(pipe: Pipeline, name: str) -> bool:
    """Whether the pipeline's call has an argument of that name."""
    return name in _parameters(pipe)[0]


def _parameters(pipe: object) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named arguments of the pipeline's call, and whether it takes others besides.

    A call that takes others hands them on: the names of the calls that it overrides count, too.
    """
    calls = [vars(kind)["__call__"] for kind in type(pipe).__mro__ if "__call__" in vars(kind)]
    found, takes_all = _named(calls[0])
    for call in calls[1:] if takes_all else ():
        named, hands_on = _named(call)
        found = named | found
        if not hands_on:
            break
    return found, takes_all


def _named(call: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    own = list(inspect.signature(call).parameters.values())[1:]  # the first is the pipeline
    named = {p.name: p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in own)

"""How a function becomes a command, and how a command prints what it found."""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from hyca_calib.records.console import one_line_errors


def command(function: Callable[..., None]) -> Callable[..., None]:
    """What typer is given instead of `function`.

    A parameter that is a dataclass of `hyca_calib.commands.options` becomes an option for each of its fields, and
    errors that HyCa raises on purpose become one line and exit code 2.
    """
    own = _parameters(function)
    composed = {name: _parameters(p.annotation) for name, p in own.items() if is_dataclass(p.annotation)}
    options = [option for name, p in own.items() for option in composed.get(name, {name: p}).values()]

    @functools.wraps(function)
    def called(**given: Any) -> None:
        for name, parts in composed.items():
            given[name] = own[name].annotation(**{part: given.pop(part) for part in parts})
        with one_line_errors():
            function(**given)

    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in options}
    return called


def _parameters(kind: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or the fields of a dataclass."""
    found = inspect.signature(kind, eval_str=True).parameters
    return {name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, parameter in found.items()}


def show(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print facts, as JSON or for people: names in a column, then values, without lists and unknowns."""
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    told = {name: value for name, value in facts.items() if value is not None and not isinstance(value, list | tuple)}
    width = max(map(len, told)) + 1
    for name, value in told.items():
        print(f"{name:<{width}} {f'{value:.4g}' if isinstance(value, float) else value}")

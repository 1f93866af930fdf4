"""Settings of solvers and policies, as plans have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError


def check_settings(what: str, kind: type, settings: Mapping[str, Any]) -> None:
    """Whether settings are of the types that the fields of a dataclass declare; arrays are for itself to check.

    Args:
        what: is set, for messages.

    Raises:
        ValueError: one is not.
    """
    for label, declared in _declared(kind).items():
        if label not in settings:
            continue
        try:
            declared.validate_json(json.dumps(settings[label]))  # of JSON, whose lists are tuples, too
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join([label, *map(str, fault["loc"])])
            raise ValueError(f"{what}: {where}: {fault['msg']}, got {str(fault['input'])[:60]!r}") from error


@cache
def _declared(kind: type) -> dict[str, TypeAdapter[Any]]:
    """What checks each setting against the type that its field has."""
    hints, strict, found = get_type_hints(kind), ConfigDict(strict=True, allow_inf_nan=False), {}
    for field in fields(kind):
        try:
            found[field.name] = TypeAdapter(hints[field.name], config=strict)
        except PydanticSchemaGenerationError:
            continue
    return found

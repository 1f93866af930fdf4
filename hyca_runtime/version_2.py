"""Plans of version 2: one point, one yes or no per step for all guidance branches."""

from __future__ import annotations

from typing import Any

from hyca_runtime.schedule import EVERY, FEATURE

FORECASTS = {"compute": [], "predict": [FEATURE]}
"""What an action of version 2 forecasts, by its kind."""


def from_version_2(content: dict[str, Any]) -> dict[str, Any]:
    """The same plan as JSON of version 3. What it lacks or has too much, so does the result."""
    sections = content.get("sections")
    moved = [_section(s) if isinstance(s, dict) else s for s in sections] if isinstance(sections, list) else sections
    return {**content, "version": 3, "sections": moved}


def _section(old: dict[str, Any]) -> dict[str, Any]:
    new = dict(old)
    schedule, cost, model = (_mapping(new, name) for name in ("schedule", "cost", "model"))
    forecast: dict[str, Any] = {}
    _move(new, "point", forecast, "at")
    _move(model, "num_channels", forecast, "num_channels")
    if "groups" in new:
        forecast["groups"] = {EVERY: new.pop("groups")}
    _move(cost, "feature_numel", forecast, "numel")
    _move(new, "sampler", new, "grid")
    palette = schedule.get("palette")
    kinds = [_kind(action) for action in palette] if isinstance(palette, list) else []
    if kinds:
        schedule["palette"] = [_action(action) for action in schedule["palette"]]
    if "table" in schedule:
        schedule["tables"] = {EVERY: schedule.pop("table")}
    if new.pop("cost", None) is not None:
        by_kind = {"compute": cost.get("full_step_flops"), "predict": cost.get("predicted_step_flops")}
        new["action_flops"] = [by_kind.get(kind) for kind in kinds]
    return {**new, "points": {FEATURE: forecast}}


def _kind(action: Any) -> str:
    return str(action.get("kind")) if isinstance(action, dict) else ""


def _action(old: Any) -> Any:
    if _kind(old) not in FORECASTS:
        return old
    rest = {name: value for name, value in old.items() if name != "kind"}
    return {**rest, "forecast": FORECASTS[_kind(old)]}


def _mapping(owner: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of the object at `name`, put in its place; an empty one that is put nowhere if there is none."""
    if not isinstance(owner.get(name), dict):
        return {}
    owner[name] = dict(owner[name])
    found: dict[str, Any] = owner[name]
    return found


def _move(source: dict[str, Any], name: str, target: dict[str, Any], new_name: str) -> None:
    if name in source:
        target[new_name] = source.pop(name)

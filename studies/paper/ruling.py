"""How a verdict is decided and told: by intervals, against a threshold that the data could miss on either side.

A condition is met, is not met, or stays open, where its interval holds the threshold. Of several conditions each must
be met for the claim to hold, so none needs a correction; where one of several is enough, their intervals are made
wider beforehand (Bonferroni, see `shared_level`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from studies.paper.chapter import Verdict

Found = Sequence[float]
"""Mean and 95 % interval."""


def above(found: Found, threshold: float = 0.0) -> bool | None:
    """Whether the whole interval lies above the threshold; None if it holds it."""
    _, low, high = found
    return True if low > threshold else False if high <= threshold else None


def below(found: Found, threshold: float = 0.0) -> bool | None:
    """Whether the whole interval lies below the threshold; None if it holds it."""
    _, low, high = found
    return True if high < threshold else False if low >= threshold else None


def decide(met: Sequence[bool | None]) -> Verdict:
    """Holds if every condition is met, partly if some is; else fails if one is surely not met."""
    if all(met):
        return "holds" if met else "not decided"
    if any(met):
        return "partly"
    return "fails" if any(cell is False for cell in met) else "not decided"


def all_above(found: Iterable[Found], threshold: float = 0.0) -> Verdict:
    """What is decided if every interval must lie above the threshold."""
    return decide([above(cell, threshold) for cell in found])


def all_below(found: Iterable[Found], threshold: float = 0.0) -> Verdict:
    """What is decided if every interval must lie below the threshold."""
    return decide([below(cell, threshold) for cell in found])


def all_of(met: Sequence[bool | None]) -> bool | None:
    """Whether every condition is met; one that surely is not refutes them all."""
    return True if all(met) else False if any(cell is False for cell in met) else None


def any_of(met: Iterable[bool | None]) -> bool | None:
    """Whether some condition is met."""
    known = list(met)
    return True if any(known) else False if all(cell is False for cell in known) else None


def shared_level(conditions: int, level: float = 0.95) -> float:
    """Level of each interval such that all of so many hold their true means at once."""
    return 1 - (1 - level) / max(1, conditions)


def told(found: Found, form: str = "{:.3f}") -> str:
    """``0.950 (0.930 to 0.970)``."""
    mean, low, high = (form.format(value) for value in found)
    return f"{mean} ({low} to {high})"


def told_db(found: Found) -> str:
    """``+0.95 (+0.93 to +0.97)``."""
    return told(found, "{:+.2f}")


def listed(
    cells: Mapping[str, Found], form: str = "{} {}", between: str = ", ", told: Callable[[Found], str] = told
) -> str:
    """All of them by name; the form has places for the name, 0, and for what is told of it, 1."""
    return between.join(form.format(name, told(found)) for name, found in cells.items())


def extremes(
    cells: Mapping[str, Mapping[str, Found]],
    pick: Callable[..., tuple[str, Found]],
    form: str,
    between: str = ", ",
) -> str:
    """Of each row of cells the one that `pick`, min or max, takes.

    Args:
        form: has places for the name of the row, 0, for what is told of the cell, 1, and for its name, 2.
    """
    picked = {row: pick(of.items(), key=lambda item: item[1][0]) for row, of in cells.items()}
    return between.join(form.format(row, told(found[:3]), name) for row, (name, found) in picked.items())

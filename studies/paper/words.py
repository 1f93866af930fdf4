"""The words of the study: documents in ``texts/`` that are filled in from numbers."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from studies.paper.chapter import Cell, Rulings, Table, Verdict
from studies.paper.intervals import Found, told, told_db

TEXTS = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "texts"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def paragraphs(document: str, name: str, **facts: Any) -> tuple[str, ...]:
    """A block of a document, filled in from facts."""
    template = TEXTS.get_template(f"{document}.md")
    block = "".join(template.blocks[name](template.new_context(facts)))
    return tuple(" ".join(part.split()) for part in block.strip().split("\n\n"))


def table(document: str, name: str, cells: Mapping[Any, Iterable[Cell]], **facts: Any) -> Table:
    """A table with a row for each name in `cells`; its block has its caption, then its head, divided by bars."""
    caption, head = paragraphs(document, name, **facts)
    rows = [((*row, *of) if isinstance(row, tuple) else (row, *of)) for row, of in cells.items()]
    return Table(caption, tuple(cell.strip() for cell in head.split("|")), tuple(rows))


def claims(document: str, verdicts: Mapping[str, Verdict], **facts: Any) -> Rulings:
    """What is decided of claims, by the names of their blocks; each says what is claimed, then the evidence."""
    told = {name: paragraphs(document, name, **facts) for name in verdicts}
    return {claim: (verdicts[name], evidence) for name, (claim, evidence) in told.items()}


def listed(
    cells: Mapping[str, Found], form: str = "{} {}", between: str = ", ", told: Callable[[Found], str] = told
) -> str:
    """All of them by name; the form has places for the name, 0, and for what is told of it, 1."""
    return between.join(form.format(name, told(found)) for name, found in cells.items())


def extremes(
    cells: Mapping[str, Mapping[str, Found]], form: str, between: str = ", ", pick: Callable[..., Any] = max
) -> str:
    """Of each row of cells, 0, the one that `pick`, min or max, takes: what is told of it, 1, and its name, 2."""
    picked = {row: pick(of.items(), key=lambda item: item[1][0]) for row, of in cells.items()}
    return between.join(form.format(row, told(found[:3]), name) for row, (name, found) in picked.items())


def means(found: Iterable[Found], form: str = "{:.3f}") -> str:
    """The means alone."""
    return ", ".join(form.format(mean) for mean, *_ in found)


def of_each(rows: Mapping[str, Any], key: Any) -> dict[str, Any]:
    """What each row has at a place."""
    return {name: row[key] for name, row in rows.items()}


spread = partial(told, form="{:.1f}")

TEXTS.filters |= {
    "told": told,
    "told_db": told_db,
    "listed": listed,
    "listed_db": partial(listed, told=told_db),
    "listed_in_db": partial(listed, told=lambda found: told_db(found).replace(" (", " dB (", 1)),
    "spread": spread,
    "highest": extremes,
    "lowest": partial(extremes, pick=min),
    "means": means,
    "of_each": of_each,
}

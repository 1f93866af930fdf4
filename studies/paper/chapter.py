"""What a chapter of the study says, in a form that becomes Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hyca_calib.metrics import interval
from hyca_calib.search.problem import Problem
from hyca_calib.workload import Workload

__all__ = ["Chapter", "Claim", "Context", "Table", "finished", "interval"]

Verdict = Literal["holds", "partly", "fails", "not decided"]


@dataclass(frozen=True)
class Claim:
    """A statement of a paper or of ours, and what the data say."""

    text: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under a caption; numbers are rounded only when shown."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass(frozen=True)
class Chapter:
    """One part of the study.

    Attributes:
        name: of its file and of ``--only``.
        text: paragraphs of Markdown.
        figures: file names in the study's folder, with captions.
        numbers: everything measured, for machines.
        seconds: of work, interrupted attempts included; the driver says them.
        made: where, when and with what, see `study.circumstances`.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    claims: tuple[Claim, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    made: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Chapter:
        tables = tuple(
            Table(t["caption"], tuple(t["head"]), tuple(tuple(row) for row in t["rows"])) for t in facts["tables"]
        )
        rest = {
            "text": tuple(facts["text"]),
            "tables": tables,
            "figures": tuple((name, caption) for name, caption in facts["figures"]),
            "claims": tuple(Claim(**claim) for claim in facts["claims"]),
        }
        return cls(**{**facts, **rest})

    def to_markdown(self) -> str:
        parts = [f"## {self.title}", *self.text]
        parts += [_table(table) for table in self.tables]
        parts += [f"![{caption}]({name})\n\n*{caption}*" for name, caption in self.figures]
        parts += [f"**{claim.text}** {claim.verdict.capitalize()}: {claim.evidence}" for claim in self.claims]
        return "\n\n".join(parts) + "\n"


def finished(
    chapter: Chapter,
    claims: Callable[[dict[str, Any]], tuple[Claim, ...]],
    tables: Callable[[dict[str, Any]], tuple[Table, ...]] | None = None,
) -> Chapter:
    """The chapter with its numbers as JSON keeps them, and the verdicts that follow from these and nothing else.

    Args:
        tables: those that follow from the numbers, too; None keeps the chapter's own.
    """
    numbers = json.loads(json.dumps(chapter.numbers))
    return replace(
        chapter, numbers=numbers, claims=claims(numbers), tables=tables(numbers) if tables else chapter.tables
    )


@dataclass(frozen=True)
class Context:
    """What every chapter works on.

    Attributes:
        model: name of the pipeline, as for ``--model``.
        pipe: the pipeline.
        problem: its trace at the trunk, all tokens stored.
        folder: where figures go.
        quick: a tenth of the work, to see that everything runs.
        tell: told the share of the chapter that is done, and a line of news.
    """

    model: str
    pipe: Any
    problem: Problem
    workload: Workload
    folder: Path
    seed: int = 0
    quick: bool = False
    tell: Callable[[float, str], None] = lambda share, news: None


def _table(table: Table) -> str:
    def shown(cell: str | float) -> str:
        return cell if isinstance(cell, str) else f"{cell:.4g}"

    rows = [table.head, tuple("---" for _ in table.head), *[tuple(shown(c) for c in row) for row in table.rows]]
    return f"{table.caption}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)

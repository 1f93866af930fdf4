"""What a chapter of the study says, in a form that becomes Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from pydantic.dataclasses import dataclass

from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.atomic import write_text
from hyca_calib.search.problem import Problem

Verdict = Literal["holds", "partly", "fails", "not decided"]
Numbers = dict[str, Any]
Subject = TypeVar("Subject")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Claim:
    """A statement of a paper or of ours, and what the data say."""

    text: str
    verdict: Verdict
    evidence: str


Claims = Callable[[Numbers], tuple[Claim, ...]]


Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under a caption; numbers are rounded only when shown."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, caption: str, head: Sequence[str], cells: Mapping[Any, Iterable[Cell]]) -> Table:
        """A row for each name, or for each of several names together."""
        names = [name if isinstance(name, tuple) else (name,) for name in cells]
        return cls(caption, tuple(head), tuple((*name, *row) for name, row in zip(names, cells.values(), strict=True)))

    def to_markdown(self) -> str:
        shown = [[cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row] for row in self.rows]
        lines = [self.head, ["---"] * len(self.head), *shown]
        return f"{self.caption}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Chapter(BaseModel, frozen=True):
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
    numbers: Numbers = {}
    seconds: float = 0.0
    made: dict[str, Any] = {}

    def to_markdown(self) -> str:
        parts = [f"## {self.title}", *self.text, *(table.to_markdown() for table in self.tables)]
        parts += [f"![{caption}]({name})\n\n*{caption}*" for name, caption in self.figures]
        parts += [f"**{claim.text}** {claim.verdict.capitalize()}: {claim.evidence}" for claim in self.claims]
        return "\n\n".join(parts) + "\n"


def finished(chapter: Chapter, claims: Claims, tables: Callable[[Numbers], tuple[Table, ...]] | None = None) -> Chapter:
    """The chapter with its numbers as JSON keeps them, and the verdicts that follow from these and nothing else.

    Args:
        tables: those that follow from the numbers, too; None keeps the chapter's own.
    """
    numbers = json.loads(json.dumps(chapter.numbers))
    shown = tables(numbers) if tables else chapter.tables
    return chapter.model_copy(update={"numbers": numbers, "claims": claims(numbers), "tables": shown})


@dataclasses.dataclass(frozen=True)
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


@dataclasses.dataclass(frozen=True)
class Part:
    """What one question adds to its chapter."""

    tables: tuple[Table, ...]
    numbers: Numbers
    text: tuple[str, ...] = ()


Question = tuple[Callable[[Subject], Part], Claims | None]
"""What measures, and the rules of its verdicts."""


def answered(
    context: Context,
    chapter: Chapter,
    subject: Callable[[Context], Subject],
    questions: Mapping[str, Question[Subject]],
    draw: Callable[[Context, Subject, Numbers], None],
) -> Chapter:
    """The chapter with the parts that its questions add, one after the other, its pictures and its verdicts."""
    count = len(questions) + 2
    context.tell(0.0, "reading trajectories")
    s, parts = subject(context), {}
    for i, (name, (measure, _)) in enumerate(questions.items()):
        context.tell((i + 1) / count, name)
        parts[name] = measure(s)
    context.tell(1 - 1 / count, "figures")
    numbers = {name: part.numbers for name, part in parts.items()}
    draw(context, s, numbers)
    found = {
        "text": (*chapter.text, *(line for part in parts.values() for line in part.text)),
        "tables": tuple(table for part in parts.values() for table in part.tables),
        "numbers": numbers,
    }
    return finished(chapter.model_copy(update=found), partial(verdicts, questions))


def verdicts(questions: Mapping[str, Question[Any]], numbers: Numbers) -> tuple[Claim, ...]:
    """Of all questions that have rules, from the numbers that their parts left."""
    return tuple(claim for name, (_, rule) in questions.items() if rule for claim in rule(numbers[name]))


def kept(path: Path, work: Callable[[], Made]) -> Any:
    """What the work found, from JSON on disk; done only if it is not there, so an interrupted run goes on."""
    if not path.exists():
        write_text(path, json.dumps(work(), allow_nan=False))
    return json.loads(path.read_text())

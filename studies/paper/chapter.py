"""What a chapter of the study says, in a form that becomes Markdown and JSON, and what it is made from."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from pydantic.dataclasses import dataclass

from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.atomic import write_text
from hyca_calib.search.problem import Problem

Verdict = Literal["holds", "partly", "fails", "not decided"]
Numbers = dict[str, Any]
Rulings = dict[str, tuple[Verdict, str]]
"""What is decided of each claim, by its text, and the evidence."""
Cell = str | int | float
Item = TypeVar("Item")
Subject = TypeVar("Subject")

NO_INTERVAL = "the committed numbers have no interval."
"""Why nothing is decided by the numbers of a chapter that was made before the claim."""


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
    rows: tuple[tuple[Cell, ...], ...]

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


@dataclasses.dataclass(frozen=True)
class Context:
    """What every chapter works on.

    Attributes:
        model: name of the pipeline, as for ``--model``.
        problem: its trace at the trunk, all tokens stored.
        folder: where figures go, and work that is kept.
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

    def in_turn(self, items: Mapping[str, Item]) -> Iterator[tuple[str, Item]]:
        """Each of them with its name, which is news when its turn comes."""
        for i, (name, item) in enumerate(items.items()):
            self.tell(i / len(items), name)
            yield name, item

    def kept(self, name: str, work: Callable[[], Any]) -> Any:
        """What the work found, from JSON in the folder; done only if it is not there, so an interrupted run goes on."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_text(path, json.dumps(work(), allow_nan=False))
        return json.loads(path.read_text())


@dataclasses.dataclass(frozen=True)
class Part:
    """What was measured for a chapter, or for one of its questions."""

    numbers: Numbers
    tables: tuple[Table, ...] = ()
    text: tuple[str, ...] = ()


Question = tuple[Callable[[Subject], Part], Callable[[Numbers], Rulings] | None]
"""What measures, and what decides by the numbers."""


@dataclasses.dataclass(frozen=True)
class Outline:
    """How a chapter is made.

    Attributes:
        models: those it is made on.
        measure: samples and computes, and draws the figures.
        rulings: follow from the numbers and nothing else.
        figures: captions by file name.
    """

    title: str
    models: tuple[str, ...]
    measure: Callable[[Context], Part]
    rulings: Callable[[Numbers], Rulings]
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def chapter(self, name: str, context: Context) -> Chapter:
        """The chapter, its numbers as JSON keeps them."""
        part = self.measure(context)
        facts = vars(part) | {"numbers": json.loads(json.dumps(part.numbers))}
        return self.decided(Chapter(name=name, title=self.title, figures=tuple(self.figures.items()), **facts))

    def decided(self, chapter: Chapter) -> Chapter:
        """A chapter as it was kept, with the verdicts of today's rules."""
        claims = tuple(Claim(text, *ruling) for text, ruling in self.rulings(chapter.numbers).items())
        return chapter.model_copy(update={"claims": claims})


def asking(
    subject: Callable[[Context], Subject],
    questions: Mapping[str, Question[Subject]],
    draw: Callable[[Context, Subject, Numbers], None],
) -> tuple[Callable[[Context], Part], Callable[[Numbers], Rulings]]:
    """What measures and what decides a chapter that asks one question after the other of the same subject."""

    def measure(context: Context) -> Part:
        context.tell(0.0, "reading trajectories")
        s = subject(context)
        parts = {name: ask(s) for name, (ask, _) in context.in_turn(questions)}
        numbers = {name: part.numbers for name, part in parts.items()}
        draw(context, s, numbers)
        tables = tuple(table for part in parts.values() for table in part.tables)
        return Part(numbers, tables, tuple(line for part in parts.values() for line in part.text))

    def rulings(numbers: Numbers) -> Rulings:
        found = Rulings()
        for name, (_, decide) in questions.items():
            found |= decide(numbers[name]) if decide else {}
        return found

    return measure, rulings

"""The words of the study: documents in ``texts/`` that are filled in from numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from studies.paper.chapter import Rulings, Verdict
from studies.paper.intervals import extremes, listed, told, told_db

TEXTS = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "texts"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEXTS.filters |= {"told": told, "told_db": told_db, "listed": listed, "extremes": extremes}


def claims(document: str, verdicts: Mapping[str, Verdict], **facts: Any) -> Rulings:
    """What is decided of some claims of a chapter.

    Args:
        document: has a block for each claim: a paragraph that states it, and one with the evidence.
        verdicts: by the name of the block.
        facts: what the blocks are filled in from.
    """
    template, found = TEXTS.get_template(f"{document}.md"), Rulings()
    for name, verdict in verdicts.items():
        block = "".join(template.blocks[name](template.new_context(facts)))
        claim, evidence = (" ".join(part.split()) for part in block.strip().split("\n\n"))
        found[claim] = verdict, evidence
    return found

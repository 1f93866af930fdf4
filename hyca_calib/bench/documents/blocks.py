"""Figures in documents come from result files: a block between two comments is rendered by the function of its name.

In README.md and docs/*.md such a block reads::

    <!-- figures: gains -->
    what the code made of the files in studies/bench
    <!-- end -->

`publish` renders every block anew; a test renders them too, and finds figures of ours that stand outside of one.
"""

import re
from collections.abc import Callable
from pathlib import Path

from hyca_calib.bench.documents.coverage_table import coverage_table
from hyca_calib.bench.documents.lanes_table import lanes_section
from hyca_calib.bench.documents.precision_table import precision_times
from hyca_calib.bench.documents.preset_tables import presets_section
from hyca_calib.bench.documents.running_costs import demo_sentence, runtime_sentence, runtime_tables
from hyca_calib.bench.documents.standing import (
    families_table,
    few_steps_table,
    gains_table,
    rules_sentence,
    standing_list,
)
from hyca_calib.bench.documents.starter_table import starter_table
from hyca_calib.records.atomic import write_text
from hyca_runtime.errors import StudyError

BLOCK = re.compile(r"^<!-- figures: (?P<name>[\w-]+) -->\n(?P<body>.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)
BEGIN = re.compile(r"^<!-- figures:", re.MULTILINE)

RENDERERS: dict[str, Callable[[Path], str]] = {
    "gains": gains_table,
    "standing": standing_list,
    "families": families_table,
    "few-steps": few_steps_table,
    "rules": rules_sentence,
    "presets": presets_section,
    "lanes": lanes_section,
    "coverage": coverage_table,
    "precision-times": precision_times,
    "starter": starter_table,
    "demo-run": demo_sentence,
    "runtime": runtime_sentence,
    "runtime-tables": runtime_tables,
}
"""By the name of the block, what makes Markdown of the result files below a root folder."""


def documents(root: Path) -> list[Path]:
    """The files that blocks may stand in."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def rendered(text: str, root: Path) -> str:
    """The text of a document with every block as the result files below `root` have it.

    Raises:
        StudyError: a block has no end, or a name without a renderer.
    """

    def render(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in RENDERERS:
            raise StudyError(f"no figures are called {name!r}; expected one of {', '.join(RENDERERS)}")
        return f"<!-- figures: {name} -->\n{RENDERERS[name](root).rstrip()}\n<!-- end -->"

    begun, whole = len(BEGIN.findall(text)), len(BLOCK.findall(text))
    if begun != whole:
        raise StudyError(
            f"{begun} blocks begin with '<!-- figures: NAME -->', {whole} of them have an end; expected a line "
            "'<!-- end -->' after each, with no other block in between"
        )
    return BLOCK.sub(render, text)


def publish(root: Path) -> list[Path]:
    """Render every block of every document below `root`; returns the files that changed."""
    changed = []
    for path in documents(root):
        before = path.read_text()
        after = rendered(before, root)
        if after != before:
            write_text(path, after)
            changed.append(path)
    return changed

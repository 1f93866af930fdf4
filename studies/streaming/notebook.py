"""Numbers of a chapter, each kept as soon as it is measured."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyca_calib.quality.metrics import interval
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say

Numbers = dict[str, Any]


class Notebook:
    """What was measured of a chapter, line by line.

    Args:
        path: of the file, named as the chapter.
        facts: of what is measured; numbers of other facts are refused.

    Raises:
        ValueError: the file is of something else.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path, self.facts = path, json.loads(json.dumps(facts))
        known = json.loads(path.read_text()) if path.exists() else {"facts": self.facts, "lines": {}}
        if known["facts"] != self.facts:
            raise ValueError(
                f"{path} is of {known['facts']}, not of {self.facts}; move it away, or choose another --out"
            )
        self.lines: dict[str, Numbers] = known["lines"]

    def once(self, line: str, measure: Callable[[], Numbers]) -> Numbers:
        """What was measured for a line, now or in an earlier call."""
        if line not in self.lines:
            say(f"{self._path.stem}: {line}")
            self.lines[line] = json.loads(json.dumps(measure()))
            write_json(self._path, {"facts": self.facts, "lines": self.lines})
        return self.lines[line]

    def lead(self, line: str, one: list[float], other: list[float], groups: tuple[int, ...]) -> None:
        """By how much one is above another, sample by sample: mean and 95 % interval."""

        def measured() -> Numbers:
            apart = [a - b for a, b in zip(one, other, strict=True)]
            return {"lead": [round(x, 3) for x in interval(apart, groups=groups)]}

        self.once(line, measured)

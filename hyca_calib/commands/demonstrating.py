"""The demo: a calibration of the embedded model, and what it took."""

import time
from pathlib import Path

from hyca_calib.bench.results import DemoRun
from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.commands.calibrating import calibrate
from hyca_calib.pipelines.load import default_device
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say
from hyca_calib.records.provenance import provenance
from hyca_calib.search.effort import EffortName
from hyca_runtime.errors import StudyError

POINT = "trunk"
"""Where the plan of the demo looks: on the select split its plans gain more by refinement there than at the output."""


def run_demo(budget: str, effort: EffortName, out: Path | None, record: Path | None) -> tuple[Evaluation, Path]:
    """``hyca_calib demo``; returns the figures of the last plan, and its picture.

    Args:
        record: where documents look for what the run took and reached; they are not told if None.

    Raises:
        StudyError: what a run took is asked of one that was begun before.
    """
    begun, options = time.monotonic(), CalibrateOptions(budget=budget, effort=effort, point=POINT, out=out)
    if record is not None and options.folder.exists():
        raise StudyError(f"{options.folder} is there already; --record tells of a whole run: choose another --out")
    made = calibrate(options)[-1]
    spent = (time.monotonic() - begun) / 60
    say(f"{spent:.1f} minutes in all")
    if record is not None:
        facts = provenance(default_device()).model_dump() | ({"threads": made.threads} if made.threads else {})
        write_json(record, DemoRun(**facts, budget=budget, minutes=spent, result=made.result))
    return made.result, made.plan.parent / "pictures" / "wall.png"

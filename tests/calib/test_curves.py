"""Learning curves of refinement: measured on the tiny model, and what they tell by hand-made ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny

from hyca_calib.costs.budget import Budget
from hyca_calib.records.provenance import provenance
from hyca_calib.trace.store import Trace
from studies.curves.draw import draw_curves
from studies.curves.measure import TUNING, Subject
from studies.curves.points import CurvePoint, Curves, read_curves, verdict

GROUPS = (0, 1, 2, 3, 4, 5)


def point(prompts: int, iterations: int, *test_db: float) -> CurvePoint:
    return CurvePoint(
        prompts=prompts, iterations=iterations, calls=iterations, fit_db=(50.0,), select_db=(45.0,), test_db=test_db
    )


def curves(*points: CurvePoint) -> Curves:
    return Curves(
        **provenance("cpu").model_dump(),
        command="python -m studies.curves",
        model="demo-class",
        budget="5x",
        flops_ratio=5.4,
        computed_steps=(0, 5, 9),
        groups=GROUPS,
        batch=12,
        points=points,
    )


def test_what_the_last_fourfold_gained_is_what_binds() -> None:
    base = (40.0, 41.0, 42.0, 43.0, 44.0, 45.0)
    longer, more = tuple(db + 1 for db in base), tuple(db + 1.1 for db in base)
    told = verdict(curves(point(48, 20, *base), point(12, 80, *longer), point(48, 80, *more)))
    assert told == ("optimisation binds: +1.10 dB (+1.10 to +1.10); data does not bind: +0.10 dB (+0.10 to +0.10)")
    told = verdict(curves(point(48, 20, *longer), point(12, 80, *longer), point(48, 80, *more)))
    assert told.endswith("; so what the schedule and its rows can say binds")
    assert "data: not measured" in verdict(curves(point(48, 20, *base), point(48, 80, *more)))


def test_a_gain_that_may_be_chance_does_not_bind() -> None:
    base = (40.0, 41.0, 42.0, 43.0, 44.0, 45.0)
    mixed = (45.0, 40.0, 46.0, 38.0, 47.0, 44.0)
    assert "optimisation does not bind" in verdict(curves(point(48, 20, *base), point(48, 80, *mixed)))


def test_points_are_the_same_again_and_are_drawn(recorded: Trace, tmp_path: Path) -> None:
    quick = replace(TUNING, trials=2)
    subject = Subject.searched(recorded, "", Budget.parse("3x"), 1, tmp_path / "work", tiny.pipeline(), quick)
    before, after = subject.point(2, 0), subject.point(2, 3)
    computed = len(subject.section.schedule.computed_steps)
    assert (before.calls, after.calls) == (0, 3 * 3 * 2 * computed)
    assert len(after.test_db) == len(recorded.workload().of("test"))
    assert sum(after.select_db) >= sum(before.select_db), "the best on the select split is kept"
    assert after.fit_db != before.fit_db
    (tmp_path / "work" / "2-3.safetensors").unlink()
    assert subject.point(2, 3) == after
    found = curves(point(2, 0, *(40.0,) * 6), point(2, 4, *(41.0,) * 6))
    (tmp_path / "c.json").write_text(found.model_dump_json())
    assert read_curves(tmp_path / "c.json") == found
    draw_curves(found, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"

"""Plans and rivals side by side, in one run, on one set of prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

from torch import Tensor

from hyca_calib.baselines import Baseline, Family, Settings
from hyca_calib.baselines.score import Score, joined, reason
from hyca_calib.bench.choice import Window, candidates, chosen
from hyca_calib.bench.equivalence import Margins
from hyca_calib.bench.figures import Figures, Timing, figures_of
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.judging import Judging
from hyca_calib.bench.notebook import Notebook
from hyca_calib.bench.quality import Quality
from hyca_calib.bench.rows import OURS, Row
from hyca_calib.bench.stage import FULL, Stage, timed
from hyca_calib.bench.sweep import MOST, Sweep, sweep
from hyca_calib.demo.judge.network import Judge
from hyca_calib.pipelines.workload import Workload
from hyca_runtime import Plan, apply_plan

__all__ = ["Comparison", "Learnt", "Tell", "plan_baseline"]

FEW = 2
"""Samples of the select split on which settings are swept."""
HARNESS = ("hyca_calib.bench.figures", "hyca_calib.baselines.score")
"""Whose code decides every figure, beside the method's and the model's."""

Tell = Callable[[str, float, str], None]
"""Told a stage, the share of it that is done, and news."""


@dataclass(frozen=True)
class _Measured:
    """What is kept of a row: all that costs time."""

    result: Figures | None
    error: str = ""
    note: str = ""


@dataclass
class Learnt:
    """Calibrations of rivals, which are kept like measurements and published with them."""

    notebook: Notebook
    known: dict[str, Any] = field(default_factory=dict)

    def recall(self, name: str, make: Callable[[], Any]) -> Any:
        """See `Setup.recall`."""
        if name not in self.known:
            self.known[name] = self.notebook.recall(Any, f"{name}, learnt", make, (module_of(make),))
        return self.known[name]


@dataclass(frozen=True)
class Comparison:
    """One model, its samples, and everything that was measured on them.

    Attributes:
        few, rest: the first `FEW` samples of the select split, and the others of it, if any.
        test: what is published.
        families: of rivals.
        model: the module of the pipeline.
        judging: looks at pictures on their own, where there is a judge for the model.
        notebook: keeps what was measured.
    """

    few: Callable[[], Stage]
    rest: Callable[[], Stage | None]
    test: Callable[[], Stage]
    families: Sequence[Family]
    model: str = ""
    judging: Judging | None = None
    notebook: Notebook = field(default_factory=Notebook)

    @classmethod
    def of(
        cls,
        clean: CleanPipeline,
        workload: Workload,
        batch: int,
        families: Sequence[Family],
        judge: tuple[Judge, Margins | None] | None = None,
        notebook: Notebook | None = None,
    ) -> Comparison:
        """On the splits of `workload`; the full runs are made when they are first needed."""
        select, steps = workload.of("select"), workload.num_steps
        few = cache(lambda: Stage.of(clean, select[:FEW], steps, batch))
        rest = cache(lambda: Stage.of(clean, select[FEW:], steps, batch) if select[FEW:] else None)
        test = cache(lambda: Stage.of(clean, workload.of("test"), steps, batch, exact=True))
        judging = None
        if judge is not None:
            judging = Judging(*judge, workload.of("test"), lambda: test().full.images)
        return cls(few, rest, test, families, type(clean.pipe).__module__, judging, notebook or Notebook())

    @cached_property
    def _by_name(self) -> dict[str, Family]:
        return {family.name: family for family in self.families}

    def sweeps(
        self, costs: Sequence[float], most: int = MOST, tell: Tell = lambda stage, share, news: None
    ) -> list[Sweep]:
        """Every family's settings, until the best at each of the costs lies inside what was tried."""
        found = []
        for number, family in enumerate(self.families):

            def told(tried: int, name: str, number: int = number) -> None:
                tell("sweeps", number / len(self.families), f"{tried} tried, {name}")

            found.append(sweep(family, partial(self._scored, self.few, "few", family), costs, most, told))
        tell("sweeps", 1.0, f"{sum(len(one.tried) for one in found)} settings tried")
        return found

    def chosen(
        self, sweeps: Sequence[Sweep], places: Sequence[Window], tell: Tell = lambda stage, share, news: None
    ) -> list[Baseline]:
        """Of each family and window the setting that is best on the whole select split."""
        close = candidates([score for one in sweeps for score in one.tried], places)
        seen: list[Score] = []
        for number, score in enumerate(close):
            tell("choice", number / len(close), score.method)
            family = self._by_name[score.family]
            more = self._scored(self.rest, "rest", family, family.baseline(score.settings)) if self.rest() else None
            seen.append(score if more is None else joined(score, more))
        tell("choice", 1.0, f"{len(close)} settings on the whole select split")
        return [self._by_name[score.family].baseline(score.settings) for score in chosen(seen, places)]

    def _scored(self, stage: Callable[[], Stage | None], samples: str, family: Family, baseline: Baseline) -> Score:
        def make() -> Score:
            here = stage()
            assert here is not None  # noqa: S101  (asked before)
            return here.score(baseline)[0]

        return self.notebook.recall(
            Score, f"{baseline.name}, {samples}", make, self._modules(family), settings=baseline.settings
        )

    def rivals(self, baselines: Sequence[Baseline], on_row: Callable[[Row], None] = lambda row: None) -> list[Row]:
        """These settings on the test split; one that fails has its error."""
        rows = []
        for baseline in baselines:
            rows.append(self._row(baseline, self._modules(self._by_name[baseline.family])))
            on_row(rows[-1])
        return rows

    def attach(self, rows: Sequence[Row]) -> None:
        """Each rival with figures, once more: what it learnt is asked for, also where its row was only recalled."""
        pipe = self.few().clean.pipe
        for row in rows:
            if row.result and row.family in self._by_name:
                with self._by_name[row.family].baseline(row.settings).applied(pipe):
                    pass

    def plans(
        self, plans: Sequence[tuple[str, str, Plan]], on_row: Callable[[Row], None] = lambda row: None
    ) -> list[Row]:
        """Plans on the test split: name, file beside the table, plan."""
        rows = []
        for name, file, plan in plans:
            baseline = plan_baseline(name, plan, self.test().num_steps, {"plan": file})
            rows.append(self._row(baseline, self._modules(None), plan.model_dump_json(include={"sections"})))
            on_row(rows[-1])
        return rows

    def full(self) -> Row:
        """The full run's own line."""
        stage = self.test()
        quality = self.judging.quality(stage.full.images) if self.judging else None
        return Row(FULL, FULL, False, figures_of(stage.full, stage.full, stage.exact), {}, stage.num_steps, quality)

    def timed(self, rows: Sequence[Row], plans: Sequence[tuple[str, str, Plan]]) -> list[Row]:
        """Rows with their wall time and memory, in turn with the full run; of failures none."""
        of_plans = {name: plan_baseline(name, plan, self.test().num_steps, {}) for name, _, plan in plans}

        def measured(row: Row) -> Row:
            baseline = of_plans.get(row.method) or self._by_name[row.family].baseline(row.settings)
            modules = self._modules(None if row.ours else self._by_name[row.family])
            make = partial(timed, self.test(), baseline)
            return replace(row, timing=self.notebook.recall(Timing, f"{row.method}, timed", make, modules))

        return [measured(row) if row.result and row.family != FULL else row for row in rows]

    def _modules(self, family: Family | None) -> tuple[str, ...]:
        """Whose code decides the figures of a family, or of our plans."""
        return (module_of(family.apply) if family else "hyca_runtime", self.model, *HARNESS)

    def _row(self, baseline: Baseline, modules: tuple[str, ...], content: str = "") -> Row:
        def sampled() -> tuple[_Measured, Tensor | None]:
            stage = self.test()
            try:
                run, note = stage.run(baseline)
            except Exception as error:  # foreign code may raise anything
                return _Measured(None, reason(error), stage.clean.prove()), None
            return _Measured(figures_of(run, stage.full, stage.exact), note=note), run.images

        def make() -> _Measured:
            found, images = sampled()
            if self.judging and images is not None:
                self.notebook.keep_pictures(baseline.name, images)
            return found

        def judged() -> Quality:
            assert self.judging is not None  # noqa: S101  (asked before)
            images = self.notebook.pictures(baseline.name)
            return self.judging.quality(sampled()[1] if images is None else images)

        asked = {"settings": baseline.settings, "plan": content}
        found = self.notebook.recall(_Measured, baseline.name, make, modules, **asked)
        quality = None
        if self.judging and found.result:
            of_judge = (*modules, "hyca_calib.bench.judging")
            quality = self.notebook.recall(Quality, f"{baseline.name}, judged", judged, of_judge, **asked)
        mine = baseline.family == OURS
        return Row(
            baseline.name,
            baseline.family,
            mine,
            found.result,
            baseline.settings,
            baseline.steps,
            quality,
            None,
            found.error,
            found.note,
        )


def plan_baseline(name: str, plan: Plan, num_steps: int, settings: Settings) -> Baseline:
    """A plan as a method."""
    return Baseline(name, OURS, num_steps, lambda pipe: apply_plan(pipe, plan, "error"), settings)


def module_of(function: Any) -> str:
    """The module that a function, or what a partial calls, was written in."""
    inner = inspect.unwrap(getattr(function, "func", function))
    return str(inner.__module__)

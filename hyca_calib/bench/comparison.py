"""Plans and baselines side by side, in one run, on one set of prompts."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, Self

from torch import Tensor

from hyca_calib.baselines import Baseline, Family, Settings
from hyca_calib.baselines.score import Score, joined, reason
from hyca_calib.bench.choice import CLOSE_LOOK, Window, chosen
from hyca_calib.bench.equivalence import Margins
from hyca_calib.bench.figures import Figures, Timing
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.notebook import Notebook, Part
from hyca_calib.bench.picture_quality import Judging, PictureQuality
from hyca_calib.bench.results import FULL, OURS, Row
from hyca_calib.bench.stage import Stage
from hyca_calib.bench.sweep import MOST, Sweep, sweep
from hyca_calib.demo.judge.network import Judge
from hyca_calib.pipelines.rollout import followed
from hyca_calib.pipelines.workload import Job, Workload
from hyca_runtime import Plan

FEW = 2
"""Samples of the select split on which settings are swept."""
HARNESS = (Figures.__module__, Score.__module__)
"""Modules whose code decides every figure, beside the method's and the model's."""

Tell = Callable[[str, float, str], None]
"""Told a stage, the share of it that is done, and news."""


@dataclass
class Learnt:
    """Calibrations of baselines, which are kept like measurements and published with them."""

    notebook: Notebook
    known: dict[str, Any] = field(default_factory=dict)

    def recall(self, name: str, make: Callable[[], Any]) -> Any:
        """What was learnt under a name, see `Setup.recall`."""
        if name not in self.known:
            self.known[name] = self.notebook.recall(Any, Part.LEARNT.of(name), make, (module_of(make),))
        return self.known[name]


@dataclass(frozen=True)
class Comparison:
    """One model, its samples, and everything that was measured on them.

    Attributes:
        few, rest: the first `FEW` samples of the select split, and the others of it; None if there are no others.
        test: what is published.
        model: the module of the pipeline.
        judging: looks at pictures on their own, where there is a judge for the model.
    """

    few: Callable[[], Stage]
    rest: Callable[[], Stage] | None
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
    ) -> Self:
        """A comparison on the splits of `workload`; the full runs are made when they are first needed."""

        def stage(jobs: Sequence[Job], exact: bool = False) -> Callable[[], Stage]:
            return cache(lambda: Stage.of(clean, jobs, workload.num_steps, batch, exact))

        select, test = workload.of("select"), stage(workload.of("test"), exact=True)
        rest = stage(select[FEW:]) if select[FEW:] else None
        judging = Judging(*judge, workload.of("test"), lambda: test().full.images) if judge else None
        model = type(clean.pipe).__module__
        return cls(stage(select[:FEW]), rest, test, families, model, judging, notebook or Notebook())

    @cached_property
    def _by_name(self) -> dict[str, Family]:
        return {family.name: family for family in self.families}

    def sweeps(
        self, costs: Sequence[float], most: int = MOST, tell: Tell = lambda stage, share, news: None
    ) -> list[Sweep]:
        """Try every family's settings, until the best at each of the costs lies inside what was tried."""
        found = []
        for number, family in enumerate(self.families):

            def told(tried: int, name: str, number: int = number) -> None:
                tell("sweeps", number / len(self.families), f"{tried} tried, {name}")

            found.append(sweep(family, partial(self._scored, self.few, Part.FEW, family), costs, most, told))
        tell("sweeps", 1.0, f"{sum(len(one.tried) for one in found)} settings tried")
        return found

    def chosen(
        self, sweeps: Sequence[Sweep], places: Sequence[Window], tell: Tell = lambda stage, share, news: None
    ) -> list[Baseline]:
        """The setting of each family and window that is best on the whole select split."""
        close = chosen([score for one in sweeps for score in one.tried], places, CLOSE_LOOK)
        seen: list[Score] = []
        for number, score in enumerate(close):
            tell("choice", number / len(close), score.method)
            family = self._by_name[score.family]
            more = self._scored(self.rest, Part.REST, family, family.baseline(score.settings)) if self.rest else None
            seen.append(joined(score, more) if more else score)
        tell("choice", 1.0, f"{len(close)} settings on the whole select split")
        return [self._by_name[score.family].baseline(score.settings) for score in chosen(seen, places)]

    def shown(self, rows: Sequence[Row], beside: Sequence[Baseline]) -> list[Baseline]:
        """Settings that an earlier table shows: what is known of rivals stays, also where others are chosen now."""
        families, there = self._by_name, {baseline.name for baseline in beside}
        known = [families[row.family].baseline(row.settings) for row in rows if row.result and row.family in families]
        return [baseline for baseline in known if baseline.name not in there]

    def _scored(self, stage: Callable[[], Stage], part: Part, family: Family, baseline: Baseline) -> Score:
        name, modules = part.of(baseline.name), self._modules(family)
        return self.notebook.recall(Score, name, lambda: stage().score(baseline), modules, settings=baseline.settings)

    def baselines(self, chosen: Sequence[Baseline], on_row: Callable[[Row], None] = lambda row: None) -> list[Row]:
        """Measure these settings on the test split; the row of one that fails has its error."""
        return [self._row(baseline, self._by_name[baseline.family], on_row) for baseline in chosen]

    def attach(self, rows: Sequence[Row]) -> None:
        """Apply each baseline with figures once more: what it learnt is asked for, also where its row was recalled."""
        pipe = self.few().clean.pipe
        for row in rows:
            if row.result and row.family in self._by_name:
                with self._by_name[row.family].baseline(row.settings).applied(pipe):
                    pass

    def plans(
        self, plans: Sequence[tuple[str, str, Plan]], on_row: Callable[[Row], None] = lambda row: None
    ) -> list[Row]:
        """Measure plans on the test split; each is given as its name, its file beside the table, and itself."""
        steps = self.test().num_steps
        return [
            self._row(
                plan_baseline(name, plan, steps, {"plan": file}),
                None,
                on_row,
                plan.model_dump_json(include={"sections"}),
            )
            for name, file, plan in plans
        ]

    def full(self) -> Row:
        """The full run's own line."""
        stage = self.test()
        quality = self.judging.quality(stage.full.images) if self.judging else None
        return Row(FULL, FULL, False, stage.figures(stage.full), {}, stage.num_steps, quality)

    def timed(self, rows: Sequence[Row], plans: Sequence[tuple[str, str, Plan]]) -> list[Row]:
        """Rows with their wall time and memory, in turn with the full run; failures stay as they are."""
        of_plans = {name: plan_baseline(name, plan, self.test().num_steps, {}) for name, _, plan in plans}
        contents = {name: plan.model_dump_json(include={"sections"}) for name, _, plan in plans}

        def measured(row: Row) -> Row:
            baseline = of_plans.get(row.method) or self._by_name[row.family].baseline(row.settings)
            modules = (*self._modules(None if row.ours else self._by_name[row.family]), Stage.__module__)
            make = partial(self.test().timing, baseline)
            content = {"plan": contents[row.method]} if row.method in contents else {}
            return replace(
                row, timing=self.notebook.recall(Timing, Part.TIMED.of(row.method), make, modules, **content)
            )

        return [measured(row) if row.result and row.family != FULL else row for row in rows]

    def _modules(self, family: Family | None) -> tuple[str, ...]:
        """Modules whose code decides the figures of a family, or of our plans."""
        return (module_of(family.apply) if family else "hyca_runtime", self.model, *HARNESS)

    def _row(self, baseline: Baseline, family: Family | None, on_row: Callable[[Row], None], content: str = "") -> Row:
        judging, modules = self.judging, self._modules(family)
        empty = Row(baseline.name, baseline.family, family is None, None, baseline.settings, baseline.steps)

        def sampled() -> tuple[Row, Tensor | None]:
            stage = self.test()
            try:
                run, note = stage.run(baseline)
            except Exception as error:  # foreign code may raise anything
                return replace(empty, error=reason(error), note=stage.clean.prove()), None
            return replace(empty, result=stage.figures(run), note=note), run.images

        def measured() -> Row:
            row, images = sampled()
            if judging and images is not None:
                self.notebook.keep_pictures(baseline.name, images)
            return row

        def seen(judging: Judging) -> PictureQuality:
            images = self.notebook.pictures(baseline.name)
            return judging.quality(sampled()[1] if images is None else images)

        asked = {"settings": baseline.settings, "plan": content}
        row = self.notebook.recall(Row, baseline.name, measured, modules, **asked)
        if judging and row.result:
            name, of_judge = Part.JUDGED.of(row.method), (*modules, Judging.__module__)
            make = partial(seen, judging)
            row = replace(row, quality=self.notebook.recall(PictureQuality, name, make, of_judge, **asked))
        on_row(row)
        return row


def plan_baseline(name: str, plan: Plan, num_steps: int, settings: Settings) -> Baseline:
    """A plan as a method that rows are made of."""
    return Baseline(name, OURS, num_steps, lambda pipe: followed(pipe, plan), settings, plan.decides_by_sample)


def module_of(function: Any) -> str:
    """The name of the module that a function, or what a partial calls, was written in."""
    inner = inspect.unwrap(getattr(function, "func", function))
    return str(inner.__module__)

"""What a calibration will take, told before it begins: stage by stage samples, network calls, hours and memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from hyca_calib.costs.budget import Budget
from hyca_calib.costs.flops import TIMED_TAPS
from hyca_calib.costs.memory import resident
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.console import human_bytes
from hyca_calib.report.write import WALL_SAMPLES
from hyca_calib.search import closed_loop
from hyca_calib.search.closing_rollout import NUMBERS
from hyca_calib.search.effort import Effort
from hyca_calib.search.error_damping import probed_work
from hyca_calib.search.options import Refinement
from hyca_calib.search.refine import WITH_BACKWARD
from hyca_calib.search.refined_points import SHARE
from hyca_calib.search.smaller import MEMBERS, SAMPLES
from hyca_calib.trace.timed_model import TimedModel
from hyca_runtime.errors import StudyError

TRIAL_SECONDS, BUILD_SECONDS, OF_STEPS, OF_CHANNELS = 0.4, 0.6, 50, 384
"""A trial on statistics of so many steps and channels took so long on one core, and the rows of a candidate that is
rolled out. A trial grows with the cube of the steps and the root of the channels, rows with the square and in
proportion."""
TRIED = 2.75
"""Candidates for every whole rollout of the select split: most are broken off."""
DRAWING_SECONDS, BASELINES = 10.0, 9
"""Of a report: its pictures, and the ways that it draws beside the plan at the plan's cost."""
EARLY = 3
"""The square of the computed steps, over so many times all steps: what plans compute before their first forecast, about
the median of those in ``studies/bench``."""
KEPT_FEATURES = TIMED_TAPS + 2
"""What autograd keeps of a forecast, over one feature."""
CHECKPOINTED = 4 / 3
"""Cost of a gradient whose calls are computed twice, over that of one whose activations are kept."""
SHARES = 200
"""How finely an effort is cut."""


@dataclass(frozen=True)
class StageWork:
    """What a stage takes.

    Attributes:
        calls: of the network, each of one sample.
        device, host: bytes at the peak; on a CPU the device is the host and has none of its own.
        disk: bytes.
    """

    stage: str
    samples: int
    calls: int
    seconds: float
    device: int
    host: int
    disk: int = 0


@dataclass(frozen=True)
class Announcement:
    """What a calibration takes."""

    stages: tuple[StageWork, ...]

    @property
    def hours(self) -> float:
        return sum(work.seconds for work in self.stages) / 3600

    def table(self) -> Table:
        """For people."""
        found = Table(title="what it will take: hours, most memory at once, disk")
        found.add_column("stage", no_wrap=True)
        for name in ("samples", "network calls", "hours", "device", "host", "disk"):
            found.add_column(name, justify="right", no_wrap=True)
        for work in self.stages:
            cells = [human_bytes(size) if size else "-" for size in (work.device, work.host, work.disk)]
            found.add_row(work.stage, str(work.samples), str(work.calls), _hours(work.seconds / 3600), *cells)
        sizes = [(work.device, work.host, work.disk) for work in self.stages]
        device, host, disk = (max(size[i] for size in sizes) for i in range(3))
        cells = [human_bytes(size) if size else "-" for size in (device, host, disk)]
        calls = str(sum(work.calls for work in self.stages))
        found.add_row("in all", "", calls, _hours(self.hours), *cells, style="bold")
        return found


def announced(
    timed: TimedModel,
    workload: Workload,
    effort: Effort,
    budgets: Sequence[Budget],
    batch: int,
    on_cpu: bool,
    checks: bool = False,
    smaller: TimedModel | None = None,
) -> Announcement:
    """What a calibration with this effort takes.

    Args:
        workload: whose samples are the effort's.
        checks: an earlier plan, that may still hold; what is behind that up to its evaluation is done if it does not.
        smaller: the model at the size at which it is refined, if that is another.

    Raises:
        BudgetError: a budget cannot be met.
    """
    costs = _Costs(timed, replace(workload, num_samples=effort.samples), effort, batch, on_cpu, smaller)
    computed = [budget.computed_steps(timed.cost, workload.num_steps, TIMED_TAPS) for budget in budgets]

    def of_budgets(make: Callable[[int], StageWork]) -> list[StageWork]:
        found = [(budget.text, make(steps)) for budget, steps in zip(budgets, computed, strict=True)]
        return [replace(work, stage=f"{work.stage} {text}") if len(found) > 1 else work for text, work in found]

    stages = [costs.trace(), *(of_budgets(costs.check) if checks else ())]
    first, *others = of_budgets(costs.confirm)
    stages += [*([costs.probe()] if effort.probes else ()), costs.tune(), costs.with_full_runs(first), *others]
    stages += [costs.fresh()] if effort.fresh and timed.backward_seconds is not None else []
    for make in (costs.refine, costs.evaluate, costs.report):
        stages += of_budgets(make)
    return Announcement(tuple(stages))


def fitted(announce: Callable[[Effort], Announcement], effort: Effort, hours: float) -> Effort:
    """The effort, all of its counts cut evenly where it would take longer.

    Raises:
        StudyError: even the least takes longer.
    """
    for share in range(SHARES, -1, -1):
        less = effort if share == SHARES else effort.cut(share / SHARES)
        if announce(less).hours <= hours:
            return less
    least = announce(effort.cut(0.0)).hours
    raise StudyError(
        f"--max-hours {hours:g}: the least that tells anything takes {_hours(least)} hours; allow more, or fewer "
        "budgets or steps"
    )


@dataclass(frozen=True)
class _Costs:
    """The stages, one by one."""

    timed: TimedModel
    workload: Workload
    effort: Effort
    batch: int
    on_cpu: bool
    smaller: TimedModel | None = None

    def _work(self, stage: str, samples: int, steps: int, seconds: float, extra: float, disk: int = 0) -> StageWork:
        """A stage whose tensors take `extra` bytes beside the weights, and whose network runs on so many steps."""
        calls = steps * self.timed.calls
        held = 0 if self.on_cpu else round(self.timed.held_bytes + extra)
        host = resident("VmRSS") + (round(extra) if self.on_cpu else 0)
        return StageWork(stage, samples, calls, seconds, held, host, disk)

    def _run(self, computed: int, timed: TimedModel | None = None) -> float:
        """Seconds of a sample of which so many steps are computed."""
        timed = timed or self.timed
        light = (self.workload.num_steps - computed) * timed.cost.predicted_seconds
        return timed.begin_seconds + computed * timed.cost.full_seconds + light

    def _drawn(self, samples: int) -> float:
        """Bytes while so many samples are drawn at once: of a step, and of the features that are held."""
        return samples * ((self.timed.peak_bytes or 0) + 4 * TIMED_TAPS * self.timed.cost.feature_numel)

    def _of(self, split: str) -> int:
        return sum(job.split == split for job in self.workload.jobs)

    def trace(self) -> StageWork:
        timed, samples, steps = self.timed, len(self.workload.jobs), self.workload.num_steps
        recorded = self._of("fit") * steps * timed.recorded_seconds
        seconds = samples * (self._run(steps) + timed.gram_seconds) + recorded
        needs = timed.preflight
        extra = needs.device + self.batch * (timed.peak_bytes or 0)
        work = self._work("trace", samples, samples * steps, seconds, extra, needs.disk)
        return replace(work, host=work.host + needs.host)

    def probe(self) -> StageWork:
        work = probed_work(self.workload.num_steps, self.effort.probes, self.timed.chunks)
        samples, steps = (self.timed.points * count for count in work)
        seconds = samples * self.timed.begin_seconds + steps * self.timed.alone_seconds
        return self._work("probe", samples, steps, seconds, self._drawn(1))

    def tune(self) -> StageWork:
        steps, channels = self.workload.num_steps, self.timed.channels
        each = TRIAL_SECONDS * (steps / OF_STEPS) ** 3 * max(1.0, channels / OF_CHANNELS) ** 0.5
        work = self._work("tune", 0, 0, self.timed.points * self.effort.trials * each, 0)
        return replace(work, host=work.host + 4 * 8 * channels * (steps + 1) ** 2)

    def check(self, computed: int) -> StageWork:
        seen, steps = self._of("fit") + self._of("select") + 1, self.workload.num_steps
        seconds = seen * (self._run(steps) + self._run(computed) + 2 * self.timed.decode_seconds)
        return self._work("check", 2 * seen, seen * (steps + computed), seconds, self._drawn(self.batch))

    def confirm(self, computed: int) -> StageWork:
        select = self._of("select")
        samples = self.effort.rollouts * select
        rows = BUILD_SECONDS * (self.workload.num_steps / OF_STEPS) ** 2 * self.timed.channels / OF_CHANNELS
        seconds = samples * self._run(computed) + TRIED * self.effort.rollouts * rows
        drawn = self._drawn(max(select, min(closed_loop.SAMPLES, self._of("fit"))))
        work = self._work("confirm", samples, samples * computed, seconds, drawn)
        if self.timed.points < 2:
            return work
        refine, share = self.refine(computed), self.timed.points * SHARE  # as if all were near one another
        return replace(
            work,
            samples=work.samples + round(share * refine.samples),
            calls=work.calls + round(share * refine.calls),
            seconds=work.seconds + share * refine.seconds,
            device=max(work.device, refine.device),
            host=max(work.host, refine.host),
        )

    def fresh(self) -> StageWork:
        samples, steps = self.effort.fresh, self.workload.num_steps
        disk = samples * self.timed.latent_bytes
        return self._work("fresh", samples, samples * steps, samples * self._run(steps), self._drawn(self.batch), disk)

    def with_full_runs(self, work: StageWork) -> StageWork:
        """Rollouts with the full runs for rows that are fitted in the loop, see `InTheLoop`: once for all budgets. What
        else that takes, counts as rollouts."""
        fit, steps = min(closed_loop.SAMPLES, self._of("fit")), self.workload.num_steps
        samples = fit * self.timed.points if fit >= closed_loop.LEAST else 0
        calls = samples * steps * self.timed.calls
        kept = 4 * NUMBERS * calls // max(1, self.timed.points)
        return replace(
            work,
            samples=work.samples + samples,
            calls=work.calls + calls,
            seconds=work.seconds + samples * self._run(steps),
            host=work.host + 2 * kept,
            disk=work.disk + kept * self.timed.points,
        )

    def refine(self, computed: int) -> StageWork:
        timed, select = self.smaller or self.timed, self._of("select")
        judged = (Refinement.evaluations + 3) * select
        seconds, steps = judged * self._run(computed), judged * computed
        batch = min(self.effort.batch, self._of("fit") + self.effort.fresh)
        if self.smaller is not None:  # ranked at both sizes, then the full runs of the smaller one
            ranked, full = MEMBERS * SAMPLES, self._of("fit") + SAMPLES + self.effort.fresh
            seconds += ranked * (self._run(computed) + self._run(computed, timed))
            seconds += full * self._run(self.workload.num_steps, timed)
            steps += 2 * ranked * computed + full * self.workload.num_steps
        samples = self.effort.iterations * batch
        if timed.backward_seconds is None:
            seconds += WITH_BACKWARD * samples * self._run(computed, timed)
            samples = judged + WITH_BACKWARD * samples
            return self._work("refine", samples, samples * computed, seconds, self._drawn(select))
        light, early = self.workload.num_steps - computed, _before_forecasts(self.workload.num_steps, computed)
        late = computed - early
        kept = batch * (late * timed.activation_bytes + light * KEPT_FEATURES * 4 * timed.cost.feature_numel)
        checkpointed = timed.in_blocks or kept > Refinement.memory_share * timed.free_bytes
        each = late * timed.backward_seconds * (CHECKPOINTED if checkpointed else 1.0)
        each += early * timed.cost.full_seconds + WITH_BACKWARD * light * timed.cost.predicted_seconds
        extra = max(self._drawn(select), self._drawn(batch) + (kept / max(1, late) if checkpointed else kept))
        seconds += samples * (timed.begin_seconds + each)
        return self._work("refine", samples + judged, steps + samples * computed, seconds, extra)

    def evaluate(self, computed: int) -> StageWork:
        test, steps = self._of("test") + 1, self.workload.num_steps
        seconds = test * (self._run(steps) + self._run(computed) + 2 * self.timed.decode_seconds)
        return self._work("evaluate", 2 * test, test * (steps + computed), seconds, self._drawn(self.batch))

    def report(self, computed: int) -> StageWork:
        samples, steps = min(WALL_SAMPLES, self._of("select")), self.workload.num_steps
        ways, run = 4 + BASELINES, samples * (2 * steps + (2 + BASELINES) * computed)
        seconds = samples * (2 * self._run(steps) + (2 + BASELINES) * self._run(computed))
        seconds += samples * ways * self.timed.decode_seconds + DRAWING_SECONDS
        return self._work("report", samples * ways, run, seconds, self._drawn(samples))


def _before_forecasts(num_steps: int, computed: int) -> int:
    """How many steps a plan is likely to compute before its first forecast: no gradient goes through these."""
    return max(1, round(computed**2 / (EARLY * num_steps)))


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours >= 0.1 else f"{hours:.3f}"

"""Where our plans stand among all others, in words and tables for documents: both sides by the same code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

from hyca_calib.baselines.samplers import SAMPLERS
from hyca_calib.bench.choice import SPARING
from hyca_calib.bench.documents.markdown import lead_cells, listed, made_with, signed, table, wrapped
from hyca_calib.bench.equivalence import OUTCOMES
from hyca_calib.bench.figures import Figures
from hyca_calib.bench.lead import Lead, lead
from hyca_calib.bench.picture_quality import PictureQuality
from hyca_calib.bench.results import FULL, OURS, RESULTS, Bench, BenchFacts, read_bench
from hyca_calib.costs.same_cost import MORE, SAME_COST
from hyca_calib.search.options import FEW_STEPS

GOAL_DB, GOAL_AT = 6.0, ("3x", "5x")
"""How far ahead of everything that costs more we set out to be, and at which budgets."""
PREFIX = f"{OURS} plan "
"""Rows of our plans are called so, and by their budget."""

Benches = Mapping[str, Bench]
"""The comparison on every model, by its name."""


@dataclass(frozen=True)
class PlanStanding:
    """A plan against the best of the others.

    Attributes:
        equal: over those that spend as much, or up to `MORE` times that.
        dearer: over those that spend as much or more, down to a FLOPs ratio of `SPARING`.
    """

    model: str
    budget: str
    ours: Figures
    equal: Lead | None
    dearer: Lead | None
    quality: PictureQuality | None

    @property
    def name(self) -> str:
        """Model and budget, for a sentence."""
        return f"`{self.model}` at {self.budget}"


def benches_below(root: Path, few_steps: bool = False) -> Benches:
    """Every model's results below the root of the repository, of long runs or of few steps."""
    found = {path.parent.name: read_bench(path) for path in sorted((root / "studies" / "bench").glob(f"*/{RESULTS}"))}
    return {name: of for name, of in found.items() if (of.facts.workload.num_steps <= FEW_STEPS) == few_steps}


def _of_results(render: Callable[[Benches], str], few_steps: bool = False) -> Callable[[Path], str]:
    """A function of the root folder that renders its results, or says why no figures are shown."""

    @wraps(render)
    def rendered(root: Path) -> str:
        benches = benches_below(root, few_steps)
        unknown = [f"`{model}`" for model, bench in benches.items() if not bench.facts.known]
        if benches and not unknown:
            return render(benches)
        return wrapped(
            "*No figures are shown here: "
            + (
                f"the results of {listed(unknown)} say neither commit nor day"
                if unknown
                else "there are no results yet"
            )
            + ". They are being measured again; studies/README.md says what is known to be wrong with earlier ones.*"
        )

    return rendered


@_of_results
def gains_table(benches: Benches) -> str:
    """A row for every plan of every model, and where the figures come from."""
    head = ["model, budget", "FLOPs ratio", "HyCa, dB", "best other way at this cost", "ahead by"]
    head += ["best of all that cost more", "ahead by"]
    lines = []
    for plan in _standings(benches):
        cells = [f"{plan.model}, {plan.budget}", f"{plan.ours.flops_ratio:.2f}x", f"**{plan.ours.agreement_db:.1f}**"]
        dearer = ["the same", ""] if plan.dearer == plan.equal else lead_cells(plan.dearer, 1)
        lines.append([*cells, *lead_cells(plan.equal, 1), *dearer])
    return f"{table(head, 'lrrlrlr', lines)}\n\n{wrapped(_sources(benches))}"


@_of_results
def standing_list(benches: Benches) -> str:
    """What we win and what we do not, counted in the same way."""
    plans = _standings(benches)
    items = (
        _counted("At equal cost", [(plan, plan.equal) for plan in plans]),
        _counted("Over everything that costs as much or more", [(plan, plan.dearer) for plan in plans]),
        _goal(plans),
        _pictures(plans),
    )
    return "\n".join(wrapped(text, "- ") for text in items if text)


@_of_results
def families_table(benches: Benches) -> str:
    """How many settings of every family of baselines were tried and are shown, on each model."""
    told = {model: _families(bench) for model, bench in benches.items()}
    sources = {sweep.family: sweep.source for bench in benches.values() for sweep in bench.sweeps}
    names = sorted({name for families in told.values() for name in families}, key=str.casefold)
    lines = [
        [name, sources.get(name, ""), *(families.get(name, "not tried") for families in told.values())]
        for name in names
    ]
    return table(["family", "source", *told], "ll" + "r" * len(told), lines)


def _few_steps_table(benches: Benches) -> str:
    """Plans of runs of few steps beside caches and beside fewer steps, and whether anything is gained."""
    head = ["model, budget", "FLOPs ratio", "HyCa, dB", "best cache at this cost", "ahead by"]
    head += ["fewer steps at this cost", "ahead by", "what is gained"]
    lines = []
    for plan in _standings(benches):
        bench = benches[plan.model]
        sides = [[row for row in bench.rows if (row.family in SAMPLERS) == own] for own in (False, True)]
        found = [lead(plan.ours, rows, bench.groups, MORE) for rows in sides]
        cells = [f"{plan.model}, {plan.budget}", f"{plan.ours.flops_ratio:.2f}x", f"**{plan.ours.agreement_db:.1f}**"]
        lines.append([*cells, *(cell for over in found for cell in lead_cells(over, 1)), _gained(found)])
    return f"{table(head, 'lrrlrlrl', lines)}\n\n{wrapped(_sources(benches))}"


few_steps_table = _of_results(_few_steps_table, few_steps=True)


def _gained(found: Sequence[Lead | None]) -> str:
    faced = [over for over in found if over]
    if any(over.high < 0 for over in faced):
        return "nothing can be gained here"
    return "something" if faced and all(over.low > 0 for over in faced) else "not decided"


def rules_sentence(root: Path) -> str:  # noqa: ARG001  (of no file: the rules are the code's)
    """What counts as a baseline of a plan."""
    less, more = (f"{100 * limit - 100:.0f} %" for limit in (SAME_COST, MORE))
    return wrapped(
        f"A rival *at this cost* spends as many FLOPs as our plan, at most {less} less and at most {more} more. *All "
        f"that cost more* are those and every other that spends more, down to a FLOPs ratio of {SPARING}: a cache that "
        "never acts agrees perfectly with the full run. The best rival is the one with the highest mean on the test "
        "split, which favours the others a little. HyCa as its paper has it is a rival, too."
    )


def _standings(benches: Benches) -> list[PlanStanding]:
    """Our plans on every model, the dearest first."""
    found = [
        PlanStanding(
            model,
            row.method.removeprefix(PREFIX),
            row.result,
            lead(row.result, bench.rows, bench.groups, MORE),
            lead(row.result, bench.rows, bench.groups),
            row.quality,
        )
        for model, bench in benches.items()
        for row in bench.rows
        if row.ours and row.result
    ]
    return sorted(found, key=lambda plan: (plan.model, plan.ours.flops_ratio))


def _families(bench: Bench) -> dict[str, str]:
    """For every family of baselines: settings tried, settings shown, whether better ones may lie outside."""
    shown = [row.family for row in bench.rows if row.result and not row.ours]
    told = {name: f"{shown.count(name)} shown" for name in dict.fromkeys(shown) if name != FULL}
    for sweep in bench.sweeps:
        tried = f"{len(sweep.tried)} tried, {shown.count(sweep.family)} shown" + ", open" * bool(sweep.open_ends)
        told[sweep.family] = "cannot attach" if sweep.refused else tried
    return told


def _counted(title: str, found: Sequence[tuple[PlanStanding, Lead | None]]) -> str:
    """How many of all pairs of model and budget are won and lost, and both ends."""
    faced = [(plan, over) for plan, over in found if over]
    ahead, behind = sum(over.low > 0 for _, over in faced), sum(over.high < 0 for _, over in faced)
    open_, alone = len(faced) - ahead - behind, len(found) - len(faced)
    text = f"**{title} our plans are ahead in {ahead} of {len(found)} pairs of model and budget, and behind in "
    text += f"{behind}{f', {open_} within the interval' if open_ else ''}"
    text += f"{f', {alone} without a rival' if alone else ''}.**"
    ends = []
    for model in dict.fromkeys(plan.model for plan, _ in faced):
        own = [pair for pair in faced if pair[0].model == model]
        both = (pick(own, key=lambda pair: pair[1].mean) for pick in (min, max))
        worst, best = (f"{signed(over.mean)} dB at {plan.budget}" for plan, over in both)
        ends.append(f"`{model}` from {worst} to {best}")
    return f"{text} {'; '.join(ends)}." if ends else text


def _goal(plans: Sequence[PlanStanding]) -> str:
    aimed = [plan for plan in plans if plan.budget in GOAL_AT]
    met = [plan.name for plan in aimed if plan.dearer and plan.dearer.low >= GOAL_DB]
    where = f": {listed(met)}" if met else ""
    goal = f"Our goal of {GOAL_DB:.0f} dB over everything that costs more, at {listed(GOAL_AT)},"
    return f"**{goal} is met in {len(met)} of {len(aimed)} pairs{where}.**"


def _pictures(plans: Sequence[PlanStanding]) -> str:
    """What the tests of equivalence say of pictures on their own; nothing where nobody judges them."""
    seen = [(plan.name, plan.quality.outcome) for plan in plans if plan.quality]
    if not seen:
        return ""
    said = {way: [name for name, outcome in seen if outcome == way] for way in OUTCOMES}
    parts = [f"{way}: {len(names)}{f' ({listed(names)})' if names else ''}" for way, names in said.items()]
    return f"**Pictures on their own, beside the full run's, of {len(seen)} plans**: {'; '.join(parts)}."


def others_sentence(facts: BenchFacts) -> str:
    """Where the figures of other methods are from, if from an earlier comparison."""
    if facts.others is None:
        return ""
    return (
        f"Other methods were measured on {facts.others.date} by commit {facts.others.commit}; a random tenth of their "
        "rows was measured again to the same figures, and what the new plans must be compared with beyond them is new."
    )


def _sources(benches: Benches) -> str:
    """Samples, steps, machine, day, commit, versions; what is common to several models once."""
    common: dict[str, list[str]] = {}
    for model, bench in benches.items():
        samples = f"{len(bench.groups)} samples of {len(set(bench.groups))} prompts"
        workload = bench.facts.workload
        made = f"{workload.num_steps} steps, seed {workload.seed}, {made_with(bench.facts)}"
        common.setdefault(made, []).append(f"`{model}` ({samples})")
    each = [f"{listed(models)}: {made}." for made, models in common.items()]
    each += [f"`{model}`: {told}" for model, bench in benches.items() if (told := others_sentence(bench.facts))]
    what = "PSNR to the model's own full run and distances are in dB, means over the test split with 95 % intervals."
    return " ".join([what, *each])

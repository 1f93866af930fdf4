"""The results: searched plans against everything else at equal compute, on prompts and noise that decided nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from hyca_calib.bench import MORE, SPARING, Dot, draw_front
from hyca_calib.budget import Budget
from hyca_calib.peers import Peer
from hyca_calib.peers.score import Score, score_or_error
from hyca_calib.science.chapter import Chapter, Context, Table, interval
from hyca_calib.science.league.claims import claims
from hyca_calib.science.league.entries import OURS, Effort, Entry, best_plans, preset_plans
from hyca_calib.science.league.ground import FINER, Ground
from hyca_calib.science.league.rivals import chosen, screened
from hyca_calib.science.league.standings import Standing, table, told

__all__ = ["results"]

BUDGETS = ("3x", "5x", "7x", "8x")
SEEDS = 3
QUICK = Effort(trials=3, confirm=2, refine=1)
PICTURE = "results.png"
CAPTION = (
    "Agreement with the full run over compute. Full dots: test split; faint dots: all settings of the peers on the "
    "select split."
)
Tell = Callable[[float, str], None]


def results(context: Context, effort: Effort | None = None) -> Chapter:
    """The chapter. Plans and measurements are kept in the folder: an interrupted run goes on where it stopped."""
    effort = effort or (QUICK if context.quick else Effort())
    budgets = [Budget.parse(text) for text in (BUDGETS[:2] if context.quick else BUDGETS)]
    entries = best_plans(context, budgets, effort, _part(context, 0.0, 0.5))
    entries += preset_plans(context, entries)
    context.tell(0.5, "full runs")
    select, test = _grounds(context)
    found = screened(context, select, _part(context, 0.52, 0.65))
    digests = {entry.peer: entry.digest for entry in entries}
    plans = _measured(list(digests), lambda peer: test.score(peer, digests[peer]), _part(context, 0.65, 0.8))
    ours = [score for score in plans if score.family == OURS]
    rivals = chosen(found, ours)
    peers = _measured(rivals, lambda peer: test.score(peer, measure=score_or_error), _part(context, 0.8, 1.0))
    standings = [_standing(context, budget, entries, plans, peers) for budget in budgets]
    presets = [score for score in plans if score.family != OURS]
    screened_dots = _dots([score for _, score in found])
    draw_front(_dots(ours), _dots(peers), context.folder / PICTURE, _dots(presets), screened_dots)
    return Chapter(
        name="results",
        title="Results",
        text=_text(context, select, test, entries, found),
        tables=tuple(table(standing) for standing in standings) + _failures(found),
        figures=((PICTURE, CAPTION),),
        claims=claims(standings),
        numbers=_numbers(context, test, entries, [*plans, *peers], found) | {"effort": asdict(effort)},
    )


def _grounds(context: Context) -> tuple[Ground, Ground]:
    """The select split, where peers are screened, and the test split with several noise seeds."""
    folder, workload = context.folder / "measured", context.workload
    if context.quick:
        select, test = workload.of("select")[:2], workload.of("test")[:4]
        exact = 2
    else:
        select, test = workload.of("select"), workload.test_jobs(SEEDS)
        exact = len(workload.of("test"))
    return Ground.of(context, select, folder / "select", len(select)), Ground.of(context, test, folder / "test", exact)


def _measured(methods: Sequence[Peer], measure: Callable[[Peer], Score], tell: Tell) -> list[Score]:
    scores = []
    for i, peer in enumerate(methods):
        tell(i / len(methods), peer.name)
        scores.append(measure(peer))
    return scores


def _standing(
    context: Context, budget: Budget, entries: Sequence[Entry], plans: Sequence[Score], peers: Sequence[Score]
) -> Standing:
    mine = [score for entry, score in zip(entries, plans, strict=True) if entry.budget == budget]
    ours = next(score for score in mine if score.family == OURS)
    return Standing(budget, ours, tuple(score for score in mine if score is not ours), tuple(peers), context.seed)


def _text(
    context: Context, select: Ground, test: Ground, entries: Sequence[Entry], found: Sequence[tuple[Peer, Score]]
) -> tuple[str, ...]:
    full = interval(test.full_exact_db, context.seed)
    steps, settings = context.workload.num_steps, Counter(score.family for _, score in found)
    families = ", ".join(f"{family} {count}" for family, count in settings.items())
    terms = (
        f"Every method draws the same {len(test.jobs)} samples of the test split (its prompts, several noise seeds) in "
        f"batches of {test.batch} and is compared with the model's own run of {steps} steps. Plans were fitted, "
        "searched and refined on the other splits. FLOPs are counted inside the network, in the first batch."
    )
    looked_at = ", ".join(f"{e.budget.text} `{e.plan.section.point}`" for e in entries if e.peer.family == OURS)
    ours = (
        "Our plans were searched at two cache points, the trunk and what all blocks add to a live embedding; rollouts "
        f"on the select split decided: {looked_at}."
    )
    rivals = (
        f"Peers bring {len(found)} settings ({families}); the {len(select.jobs)} samples of the select split decide "
        "which of them are measured on the test split. The tables show of each family the setting that is best among "
        f"those that cost as much as our plan or up to {100 * MORE - 100:.0f} % more (equal), and, if it is another, "
        f"the best of all that cost as much or more, down to a FLOPs ratio of {SPARING} (dearer)."
    )
    recipes = (
        "Published recipes have the interval that the budget allows, and the next shorter one, too, where the first "
        "spares more than our plan. HyCa's recipe at every block is the paper's own cache point; it looks at one "
        "prompt, as at the trunk."
    )
    exact = (
        f"A full run is not the exact solution of its differential equation: it is {told(full)} dB from a run of "
        f"{FINER} times the steps, here called the exact run. Plans forecast the full run and inherit this distance; "
        f"better samplers aim at the exact solution. The last column is PSNR to the exact run, for the first "
        f"{len(test.exact)} samples."
    )
    return terms, ours, rivals, recipes, exact


def _dots(scores: Sequence[Score]) -> list[Dot]:
    return [Dot(score.family, score.flops_ratio, score.mean_db) for score in scores if not score.error]


def _failures(found: Sequence[tuple[Peer, Score]]) -> tuple[Table, ...]:
    """Settings that raised, if any."""
    errors = Counter((score.family, score.error) for _, score in found if score.error)
    rows = tuple((family, error, float(count)) for (family, error), count in errors.items())
    return (Table("Peers that fail on this model.", ("peer", "error", "settings"), rows),) if rows else ()


def _numbers(
    context: Context,
    test: Ground,
    entries: Sequence[Entry],
    scores: Sequence[Score],
    found: Sequence[tuple[Peer, Score]],
) -> dict[str, Any]:
    return {
        "full_exact_db": interval(test.full_exact_db, context.seed),
        "computed_steps": {entry.peer.name: list(entry.plan.section.schedule.computed_steps) for entry in entries},
        "test": {
            score.method: {
                "family": score.family,
                "flops_ratio": score.flops_ratio,
                "psnr_db": interval(score.psnr_db, context.seed),
                "psnr_db_worst": min(score.psnr_db),
                "ssim": interval(score.ssim, context.seed),
                "exact_db": interval(score.exact_db, context.seed),
            }
            for score in scores
            if not score.error
        },
        "select": {
            score.method: {"flops_ratio": score.flops_ratio, "psnr_db": score.mean_db, "exact_db": score.mean_exact_db}
            for _, score in found
            if not score.error
        },
    }


def _part(context: Context, start: float, end: float) -> Tell:
    """Tells of a part of the chapter."""
    return lambda share, news: context.tell(start + (end - start) * share, news)

"""What the project promised, held against the standings."""

from __future__ import annotations

from collections.abc import Sequence

from hyca_calib.bench import SPARING
from hyca_calib.peers.score import Score
from hyca_calib.science.chapter import Claim
from hyca_calib.science.league.rivals import FIVEFOLD, best_of
from hyca_calib.science.league.standings import Standing, told

__all__ = ["TARGETS_DB", "claims"]

TARGETS_DB = {"3x": 9.0, "5x": 10.0, "8x": 6.0}
CHEAPEST = "7x"


def claims(standings: Sequence[Standing]) -> tuple[Claim, ...]:
    """Margins hold if the mean is at least the target, partly if it is above zero beyond chance."""
    found: list[Claim] = []
    for standing in standings:
        if target := TARGETS_DB.get(standing.budget.text):
            rivals = {
                "the best peer of equal cost": standing.best_equal,
                f"the best peer that costs as much or more (FLOPs ratio down to {SPARING})": standing.best_dearer,
                "the best form of HyCa's own recipe": standing.best_hyca,
            }
            for name, rival in rivals.items():
                if rival is not None:
                    text = f"At {standing.budget.text} the searched plan is at least {target:g} dB above {name}."
                    found.append(_margin(text, standing, rival, target))
        if standing.budget.text == CHEAPEST and (rival := best_of(standing.peers, FIVEFOLD)):
            text = f"The {CHEAPEST} plan is above every peer's 5x (FLOPs ratio {FIVEFOLD.low} or more)."
            found.append(_margin(text, standing, rival, 0.0))
        if rival := standing.most_exact:
            found.append(_exact(standing, rival))
    return tuple(found)


def _margin(text: str, standing: Standing, rival: Score, target: float) -> Claim:
    mean, low, high = standing.ahead(rival)
    met = mean >= target and low > 0
    return Claim(
        text,
        "holds" if met else "partly" if low > 0 else "fails",
        f"{told((mean, low, high), '+')} dB over {rival.method} ({rival.flops_ratio:.2f}x, {rival.mean_db:.2f} dB); "
        f"ours {standing.ours.flops_ratio:.2f}x, {standing.ours.mean_db:.2f} dB.",
    )


def _exact(standing: Standing, rival: Score) -> Claim:
    mean, low, high = standing.exact_ahead(rival)
    return Claim(
        f"At {standing.budget.text} the searched plan is also nearer to the exact run than any peer of equal cost.",
        "holds" if low > 0 else "fails" if high < 0 else "partly",
        f"{told((mean, low, high), '+')} dB against {rival.method} ({rival.mean_exact_db:.2f} dB); "
        f"ours {standing.ours.mean_exact_db:.2f} dB.",
    )

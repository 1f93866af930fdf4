"""What Optuna tunes."""

from dataclasses import dataclass

from hyca_calib.search.options import Grain, Sources


@dataclass(frozen=True)
class Settings:
    """How a plan forecasts, apart from its schedule.

    Attributes:
        groups: number of channel groups asked of the clusterer.
        descriptors: families joined by "+".
        clusterer: name of the clusterer.
        depth: history of the fitted taps.
        ridge: pull of the taps towards linear extrapolation.
        axis: time axis of the solvers.
        start: leading steps that are always computed.
        taps: a row of taps for every channel, drawn by the ridge towards its group's, or one for every group.
        sources: what rows for channels weigh, see `Sources` and `joint_section`.
        repay: share of the error of earlier forecasts that rows for channels make up for, see `with_feedback`.
        in_loop: rows for channels are fitted in a run of the plan, from what the above makes of them, see `InTheLoop`.
        inherit: rows that the plan has which the search starts from are kept as they are there, see `inherited`.
    """

    groups: int = 16
    descriptors: str = "energy+dynamics"
    clusterer: str = "kmeans"
    depth: int = 3
    ridge: float = 1e-3
    axis: str = "sigma"
    start: int = 1
    taps: Grain = "channel"
    sources: Sources = "own"
    repay: float = 0.0
    in_loop: bool = False
    inherit: bool = False

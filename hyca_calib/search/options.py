"""What a search may spend on each of its stages; the one place where its defaults stand."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Grain = Literal["channel", "group"]
"""What has a row of taps of its own: every channel, or every group of channels."""

Sources = Literal["own", "constant", "branches", "all"]
"""What rows for channels weigh: the own past of a branch; beside it a constant, the other branches' past, or both."""

Naming = Literal["diffusers", "dit"]
"""Whose names layers have in a schedule file: those of diffusers, or of the repository of DiT."""

Reader = Literal["smoothcache", "cache-dit", "sglang"]
"""Who reads what is exported."""

FEW_STEPS = 12
"""Of runs of so many steps whole ones are too coarse: some run a part of the network, and all ways are looked at."""

RELEASED_THRESHOLD = 0.1
"""Of routers that Learning-to-Cache released for DiT on 256 pixels; 0.9 on 512."""


@dataclass(frozen=True)
class Tuning:
    """Limits of the offline part.

    Attributes:
        trials: settings tried.
        timeout: seconds; the trial that runs then stops, unless it is the first.
        groups: fixes the number of groups; None lets Optuna choose.
        taps: see `Settings`.
    """

    trials: int = 40
    timeout: float = 45.0
    groups: int | None = None
    taps: Grain = "channel"


@dataclass(frozen=True)
class RolloutLimits:
    """Limits of the search by rollouts.

    Attributes:
        minutes: wall time, 0 to trust the offline objective.
        finalists: offline candidates that are rolled out whatever the time.
        rollouts: no more than so many, if the time is not spent before; same result on every machine.
        workers: processes that search at once; so many moves are tried before the best of them is taken.
    """

    minutes: float = 1.0
    finalists: int = 2
    rollouts: int | None = None
    workers: int = 1


@dataclass(frozen=True)
class Refinement:
    """How taps are refined.

    Attributes:
        minutes: wall time, evaluation on the select split included.
        iterations: stop after so many, if the time is not spent before; same result on every machine.
        batch: fit samples of one iteration; fewer of a slow model, see `affordable`.
        lr: learning rate of Adam in the beginning, in `preconditioned` coordinates; see `step_size`.
        evaluations: how often the select split is rolled out on the way; of a slow model less often.
        memory_share: share of the free memory that activations may take; beyond, every network call
            is checkpointed and computed twice.
        size: arguments of the pipeline's call of which gradients are taken, where that is as good; else those of
            the samples. See `hyca_calib.search.smaller`.
    """

    minutes: float = 5.0
    iterations: int | None = None
    batch: int = 12
    lr: float = 0.03
    evaluations: int = 12
    memory_share: float = 0.4
    size: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class SearchOptions:
    """Limits of all stages of a search.

    Attributes:
        confirmation: limits of the rollouts that decide between offline candidates and improve them.
        seed: source of all randomness.
        storage: where workers share trials and rollouts, see `open_study`; None for the study's own folder.
        probes: full runs of one sample that measure how errors are damped; 0 for none.
        fresh: full runs beyond the trace that refinement learns from, see `FreshRuns`.
        shared: where what serves all budgets is kept; None for the study's own folder.
        in_loop: whether rows are fitted in runs of the candidates, where that is nearer, see `InTheLoop`.
    """

    confirmation: RolloutLimits = field(default_factory=RolloutLimits)
    refinement: Refinement = field(default_factory=Refinement)
    seed: int = 0
    storage: str | Path | None = None
    tuning: Tuning = field(default_factory=Tuning)
    probes: int = 32
    fresh: int = 0
    shared: Path | None = None
    in_loop: bool = True

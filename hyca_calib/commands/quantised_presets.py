"""Presets that compute in low precision."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from pydantic import TypeAdapter

from hyca_calib.commands.asked import Asked, Maker
from hyca_calib.commands.options import SearchLimits
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import stage
from hyca_calib.records.provenance import machine
from hyca_calib.search.cachequant.drift import calibrate_distances
from hyca_calib.search.cachequant.search import grouping_of, search_cachequant
from hyca_calib.search.cachequant.site import measure_site
from hyca_calib.search.precision.calibration import known_variants
from hyca_calib.search.precision.step_seconds import step_shares
from hyca_calib.search.precision.variants import parse_variants, with_roundings
from hyca_calib.search.problem import Problem
from hyca_calib.search.quantcache.calibration import calibrate_changes, calibrate_cosines, calibrate_importance
from hyca_calib.search.quantcache.search import Calibrated, calibrated, search_quantcache, with_balance_that_pays
from hyca_calib.search.quantcache.site import measure_site as measure_blocks
from hyca_calib.search.smoothcache.calibration import Changes
from hyca_calib.search.study import StudyFolder
from hyca_runtime import Plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.attach.variants import Variants
from hyca_runtime.errors import BudgetError
from hyca_runtime.variant import VariantSpec

INT8, STEP_SHARES = "int8", "step_shares.json"
WEIGHTS = "int8", "int4_weights"
"""Schemes among which QuantCache chooses for each layer; the first is needed."""


def cachequant(asked: Asked) -> Maker:
    """Groups for budgets; the network is measured, and distances between steps, once."""
    (problem,), pipe = asked.problems, asked.pipe
    specs = parse_variants(asked.limits.precision or INT8)
    if len(specs) > 1:
        raise BudgetError(f"--precision {asked.limits.precision}: {asked.limits.preset} takes one, got {len(specs)}")
    site = measure_site(pipe, problem, specs)
    longest = max(grouping_of(problem, budget, site).lengths[-1] for budget in asked.budgets)
    ahead = min(longest, problem.trace.num_steps) - 1

    @cache
    def distances() -> Changes:
        with stage("calibrate") as tell:
            return calibrate_distances(pipe, problem, site.layers.points, ahead, asked.folder, tell)

    def make(budget: Budget, study: StudyFolder) -> Plan:
        known = distances()
        with stage("correct") as tell:
            return search_cachequant(pipe, problem, budget, study, site, known, tell)

    return make


def quantcache(asked: Asked) -> Maker:
    """Counters for budgets; the network is measured, and what full runs tell, once."""
    (problem,), pipe, limits = asked.problems, asked.pipe, asked.limits
    specs = parse_variants(limits.precision or INT8)
    simulated = {spec.simulated for spec in specs.values()}
    if not {INT8} <= specs.keys() <= {*WEIGHTS} or len(simulated) > 1:
        raise BudgetError(
            f"--precision {limits.precision}: {limits.preset} takes int8, perhaps with int4_weights beside it, both of "
            "them :simulated or neither"
        )
    network = find_transformer(pipe, problem.trace.attributes.model.component)
    Variants(network, specs)  # refused before full runs, if they cannot be made here
    site = measure_blocks(pipe, problem)

    @cache
    def known() -> Calibrated:
        schemes = [spec.scheme for spec in specs.values()]
        with stage("calibrate") as tell:

            def part(number: int, share: float) -> None:
                tell((number + share) / 4)

            distances = calibrate_changes(pipe, problem, asked.folder, partial(part, 0))
            cosines = calibrate_cosines(pipe, problem, asked.folder, partial(part, 1))
            importance = calibrate_importance(
                pipe, problem, schemes, simulated == {True}, asked.folder, partial(part, 2)
            )
            found = calibrated(pipe, problem, distances, cosines, importance, simulated == {True})
            return with_balance_that_pays(pipe, problem, site, found, asked.folder, partial(part, 3))

    return lambda budget, study: search_quantcache(pipe, problem, budget, study, site, known(), limits.seed)


def with_variants(
    pipe: Pipeline, problem: Problem, limits: SearchLimits, folder: Path, budgets: Sequence[Budget]
) -> Problem:
    """The problem with what real runs tell of quantised versions of the network; and how long their steps take, where
    budgets are of time: measured once, and kept in the folder beside the seconds of runs.

    Raises:
        BudgetError: none of them saves time here, and all budgets are of time.
    """
    timed = [budget.timed is not None for budget in budgets]
    asked = parse_variants(limits.precision or INT8)
    specs = {name: with_roundings(spec, limits.roundings) for name, spec in asked.items()}
    with stage("quantise") as tell:
        tell(0.0)
        known = known_variants(pipe, problem, specs, folder, tell)
        shares = _kept_shares(pipe, problem, specs, folder) if any(timed) else {}
        tell(1.0, ", ".join(f"{spec}{_told_share(name, shares)}" for name, spec in specs.items()))
    found = replace(known, step_shares=shares)
    if all(timed) and not found.saving(in_time=True):
        told = ", ".join(f"{name} {share:.2f} times as long" for name, share in shares.items())
        raise BudgetError(
            f"--precision {limits.precision}: its steps take no less time than others here ({told}), so a budget of "
            "time gains nothing by them; leave it out, or use '10x bitops'"
        )
    return replace(problem, variants=found)


def _kept_shares(pipe: Pipeline, problem: Problem, specs: Mapping[str, VariantSpec], folder: Path) -> dict[str, float]:
    """What was measured of these variants of this model, here or by an earlier call."""
    file, asked = folder / STEP_SHARES, {name: spec.model_dump_json() for name, spec in specs.items()}
    of = hashlib.sha256(f"{problem.identity} {asked} {machine(str(runs_on(pipe)))}".encode()).hexdigest()[:12]
    kept = TypeAdapter(dict[str, dict[str, float]])
    known = kept.validate_json(file.read_bytes()) if file.exists() else {}
    if of not in known:
        known[of] = step_shares(pipe, problem, specs)
        write_json(file, known)
    return known[of]


def _told_share(name: str, shares: Mapping[str, float]) -> str:
    return f", {shares[name]:.2f} of a step's time" if name in shares else ""

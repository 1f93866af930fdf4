"""The table of solvers says what the contract holds."""

from __future__ import annotations

import pytest

from hyca_calib.search.solver_table import ALL_SOLVERS, facts_of, to_markdown
from hyca_runtime.solvers import AdaptiveSolver, Newton, solvers


def test_every_closed_form_is_in_the_table() -> None:
    of_one_run = {"fitted", "fitted_to_past", "aligned", "increment"}
    """Their rows are for the histories, the probe or the sampler of one plan."""
    assert {solver.name for solver in ALL_SOLVERS} == set(solvers) - of_one_run


@pytest.mark.parametrize("solver", ALL_SOLVERS, ids=lambda solver: facts_of(solver).label)
def test_measured_facts(solver: Newton) -> None:
    facts = facts_of(solver)
    assert facts.order == pytest.approx(solver.exact_degree + 1, abs=0.25)
    assert (facts.noise is None) == isinstance(solver, AdaptiveSolver)
    assert facts.noise is None or facts.noise[0] >= 1
    assert facts.cold[:1] == ((pytest.approx(1.0, abs=0.05),) if solver.depth > 1 else ())


def test_noise_of_known_rows() -> None:
    table = to_markdown([facts_of(solver) for solver in ALL_SOLVERS]).split("---|\n")[1]
    lines = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert "| 3.00 | 9.00 |" in lines["newton order=1"]  # 2, -1 and 5, -4
    assert "| 4.17 |" in lines["adams_moulton"]
    assert "| 1.67 |" in lines["bdf2"]


def test_the_dynamic_mode_alone_follows_a_decay_of_unknown_rate() -> None:
    errors = {facts.label: facts.relaxing for facts in map(facts_of, ALL_SOLVERS)}
    assert errors["hold"] == pytest.approx(1)
    assert errors.pop("dynamic_mode") < 1e-6 < min(errors.values())

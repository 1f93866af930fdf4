"""``python -m studies.starter``, from the repository."""

from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.bench.starter import StarterRow, StarterRun
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import one_line_errors, say
from hyca_calib.records.provenance import command_line, provenance
from studies.starter.measure import BUDGETS, MODELS, STEPS, Subject, at_equal_cost, mean_db
from studies.starter.rule import CLOSED_FORMS, better_form, learnt_curve, published

RESULT = Path(__file__).parent / "results.json"


def main(out: Annotated[Path, typer.Option(help="Where the result is written.")] = RESULT) -> None:
    """Learn the rule of plans without calibration, and measure it; minutes.

    Each model is measured by the rule that the published plans of the others teach.
    """
    with one_line_errors():
        ours, others = list[StarterRow](), list[StarterRow]()
        for model in MODELS:
            subject = Subject.of(model)
            curve = learnt_curve(published(m for m in MODELS if m != model))
            ours += [subject.starter(budget, curve, solver) for budget in BUDGETS for solver in CLOSED_FORMS]
            others += subject.fixed_rules()
            say(f"{model}: {len(ours)} plans and {len(others)} settings of others so far")
        agreement = {
            (solver.name, model): [mean_db(r) for r in ours if (r.model, r.name) == (model, solver.name)]
            for solver in CLOSED_FORMS
            for model in MODELS
        }
        chosen = {model: better_form(agreement, [m for m in MODELS if m != model]).name for model in MODELS}
        kept = [row for row in ours if row.name == chosen[row.model]]
        rows = [one for row in kept for one in (row, *at_equal_cost(others, row))]
        run = StarterRun(
            **provenance("cpu").model_dump(),
            command=command_line(),
            steps=STEPS,
            curve=learnt_curve(published(MODELS)),
            solver=better_form(agreement, MODELS).name,
            rows=tuple(rows),
        )
        write_json(out, run)
        for row in rows:
            say(f"{row.model} {row.budget}: {row.name}, {row.flops_ratio:.2f}x, {mean_db(row):.1f} dB")
        say(f"curve {run.curve}, solver {run.solver}; all closed forms: {agreement}")


if __name__ == "__main__":
    typer.run(main)

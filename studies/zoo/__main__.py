"""``python -m studies.zoo``, from the repository."""

from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import counting, one_line_errors, say
from hyca_runtime.errors import WorkloadError
from studies.zoo import MODELS, PIPELINES
from studies.zoo.check import Verdict
from studies.zoo.table import POINTS, check_all, to_markdown


def main(
    only: Annotated[list[str] | None, typer.Option(help="Keep names with this in them; repeatable.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Also under torch.compile; minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table here instead of showing it.")] = None,
) -> None:
    """Try the runtime on every transformer class of the installed diffusers, tiny and with random weights.

    Example: python -m studies.zoo --only Wan
    """
    with one_line_errors():
        names = [name for name in (*MODELS, *PIPELINES) if not only or any(part in name for part in only)]
        if not names:
            raise WorkloadError(f"no model or pipeline has {' or '.join(only or [])} in its name; known: {[*MODELS]}")
        with counting("check", len(names) * len(POINTS)) as advance:

            def tell(verdict: Verdict) -> None:
                if not verdict.good:
                    say(f"{verdict.name}, {verdict.point}: {verdict.results}")
                advance(1)

            table = to_markdown(*check_all(only or [], compiled, tell))
        if out is not None:
            write_text(out, table)
        print(out or table)


if __name__ == "__main__":
    typer.run(main)

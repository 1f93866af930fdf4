"""What a report measured of its plan, kept beside it for pages of several plans."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from hyca_calib.records.atomic import write_text

FILE = "figures.json"


class ReportFigures(BaseModel, frozen=True):
    """One plan against the full run, on samples of the select split.

    Attributes:
        agreement_db: mean over the samples, as the report has it: of pictures, not of latents.
    """

    flops_ratio: float
    agreement_db: float
    measure: str
    num_samples: int

    def write(self, study: Path) -> None:
        """Keep the figures in the folder of a study."""
        write_text(study / FILE, self.model_dump_json(indent=1) + "\n")


def figures_in(study: Path) -> ReportFigures | None:
    """What the report of a study measured; None if there is none, or it is of an older hyca."""
    try:
        return ReportFigures.model_validate_json((study / FILE).read_bytes())
    except (OSError, ValidationError):
        return None

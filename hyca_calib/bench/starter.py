"""How plans without calibration do: a result file."""

from pydantic import BaseModel

from hyca_calib.records.provenance import Provenance


class StarterRow(BaseModel, frozen=True):
    """One way to save compute on one model.

    Attributes:
        way: its family; "starter" is ours.
        name: with its settings.
        budget: that it is held against; a baseline is named once for each budget that it costs as much as.
        flops_ratio: FLOPs of the full run over its own.
        agreement_db: with the full run, sample by sample.
    """

    model: str
    way: str
    name: str
    budget: str
    flops_ratio: float
    agreement_db: tuple[float, ...]


class StarterRun(Provenance, frozen=True):
    """Plans without calibration beside fixed rules.

    Attributes:
        command: that made the file.
        steps: of the sampler.
        curve, solver: the rule of all models together, which is the runtime's.
    """

    command: str
    steps: int
    curve: tuple[float, ...]
    solver: str
    rows: tuple[StarterRow, ...]

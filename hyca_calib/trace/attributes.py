"""What a complete trace says of itself, kept as the attributes of its Zarr group."""

from typing import Literal, Self

from pydantic import BaseModel, FiniteFloat, model_validator

from hyca_calib.pipelines.load import TracedModel
from hyca_calib.pipelines.workload import Split, WorkloadSummary
from hyca_calib.trace.commits import NonFinite
from hyca_calib.trace.documents import checked
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.request import TRACE_VERSION, check_version
from hyca_calib.trace.streamed import TracedChunks
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint


class TracedPoint(BaseModel, frozen=True):
    """What a trace says of one of its points.

    Attributes:
        num_tokens, crossed, gram_share, gram_error: see `PointLayout`.
    """

    point: CachePoint
    num_tokens: list[list[int]]
    crossed: bool
    gram_share: float
    gram_error: float


class TraceAttributes(BaseModel, frozen=True):
    """The attributes of a trace.

    Attributes:
        branches, stacked, scheduler_timesteps, first_computed: see `Layout`.
        guidance: weight of each branch in what the sampler steps with; empty where it is not known.
        model, batch: see `Request`.
        points: in the order in which they were asked for.
        excluded: numbers of the samples that are in no statistics, because they hold NaN or infinity.
        nonfinite: where they do.
        across: whether there are products of points with each other.
        chunks: of a video whose calls hold several, those that it is of.
    """

    format: Literal["hyca-trace"] = "hyca-trace"
    version: int = TRACE_VERSION
    branches: list[str]
    stacked: int
    guidance: list[FiniteFloat]
    scheduler_timesteps: list[float]
    model: TracedModel
    points: list[TracedPoint]
    workload: WorkloadSummary
    splits: list[Split]
    batch: int
    excluded: list[int]
    nonfinite: list[NonFinite]
    first_computed: int = 1
    across: bool = False
    chunks: TracedChunks | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.points:
            raise ValueError("there is no point")
        if self.stacked < 1 or len(self.branches) % self.stacked:
            raise ValueError(f"{self.stacked} branches in each call do not make {len(self.branches)}")
        if len(self.guidance) not in (0, len(self.branches)):
            raise ValueError(f"{len(self.guidance)} weights of guidance for {len(self.branches)} branches")
        return self

    @classmethod
    def of_group(cls, folder: Folder, content: object) -> Self:
        """The attributes in `content`, which the Zarr group in `folder` has.

        Raises:
            TraceError: the group is no trace, or one of another version, or damaged.
        """
        found = content if isinstance(content, dict) else {}
        if found.get("format") != cls.model_fields["format"].default:
            raise TraceError(
                f"{folder}: not a HyCa trace but another Zarr group; give the path of a trace, or make one: "
                "python -m hyca_calib trace"
            )
        check_version(folder, found.get("version", 0))
        return checked(cls, found, folder, "zarr.json")

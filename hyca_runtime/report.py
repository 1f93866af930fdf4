"""What a session did."""

from __future__ import annotations

from dataclasses import dataclass, field

from hyca_runtime.moment import Stream

__all__ = ["RunReport", "StreamCount"]


@dataclass
class StreamCount:
    """Calls of one stream during its current run."""

    computed: int = 0
    predicted: int = 0
    forecast_flops: int = 0

    @property
    def steps(self) -> int:
        return self.computed + self.predicted


@dataclass(frozen=True)
class RunReport:
    """Account of the latest run.

    Attributes:
        streams: calls per guidance branch, chunk and lane.
        off_plan: why the run was computed in full, or "".
        cache_bytes: bytes of features held now.
        forecast_flops: FLOPs of the weighted sums, whole batch.
        flops_ratio: FLOPs of the plan's full run over this run's, None when the plan does not say.
    """

    streams: dict[Stream, StreamCount] = field(default_factory=dict)
    off_plan: str = ""
    cache_bytes: int = 0
    forecast_flops: int = 0
    flops_ratio: float | None = None

    @property
    def computed(self) -> int:
        return max((count.computed for count in self.streams.values()), default=0)

    @property
    def steps(self) -> int:
        return max((count.steps for count in self.streams.values()), default=0)

    def __str__(self) -> str:
        if not self.steps:
            return "no step has run yet"
        ratio = f"{self.steps / max(1, self.computed):.1f}x fewer"
        if self.flops_ratio is not None:
            ratio += f", {self.flops_ratio:.2f}x by FLOPs"
        lines = [f"{self.computed} of {self.steps} steps computed ({ratio}), {self.cache_bytes / 2**20:.2f} MiB held"]
        if len(self.streams) > 1:
            lines += [f"  {s[0] or 'unnamed branch'}: {c.computed} of {c.steps}" for s, c in self.streams.items()]
        if self.off_plan:
            lines.append(f"  computed in full: {self.off_plan}")
        return "\n".join(lines)

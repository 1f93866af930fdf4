"""The judge of a model at work: pictures on their own, against the full run's of the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from hyca_calib.bench.equivalence import Margins
from hyca_calib.bench.quality import Quality, Verdict, judged, quality
from hyca_calib.demo.judge.network import Judge
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.metrics import prompt_groups

__all__ = ["Judging"]


@dataclass(frozen=True)
class Judging:
    """A judge, and what it sees in the full run.

    Attributes:
        margins: within which pictures are as good.
        full: gives pictures ``(sample, 3, height, width)`` of the full run of `jobs`.
    """

    judge: Judge
    margins: Margins | None
    jobs: Sequence[Job]
    full: Callable[[], Tensor]

    @cached_property
    def _verdict(self) -> Verdict:
        return judged(self.judge, self.full(), self.jobs)

    def quality(self, images: Tensor | None) -> Quality:
        """Of a method's pictures of the same samples.

        Raises:
            ValueError: there are none: a method that gave pictures once failed now.
        """
        if images is None:
            raise ValueError("the method gave no pictures this time; measure it again")
        found = judged(self.judge, images, self.jobs)
        return quality(self.judge, found, self._verdict, self.margins, prompt_groups(self.jobs))

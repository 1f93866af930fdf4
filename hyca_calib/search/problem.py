"""What a search knows about a model: a trace, reduced to the numbers the algebra needs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Job, Split, Workload
from hyca_calib.search.options import Sources
from hyca_calib.search.past_cost import PastCost, told_keys
from hyca_calib.search.precision.variants import KnownVariants, used_variants, with_noise
from hyca_calib.search.replay import Array
from hyca_calib.search.rows import Places, places_of, rows_of
from hyca_calib.trace.store import Trace
from hyca_runtime.certified import content_digest
from hyca_runtime.chunking import Chunking
from hyca_runtime.errors import TraceError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.streaming.retention import RetentionSpec

AXES = ("step", "sigma", "log_snr")
"""Time axes a solver can extrapolate on: step index, noise level, log signal-to-noise ratio of a
rectified flow, ``2 log((1 - sigma) / sigma)``."""


@dataclass(frozen=True)
class Samples:
    """Jobs and their full runs.

    Attributes:
        latents: final latents of the full runs, ``(job, ...)``.
        num_steps: what the pipeline is called with; it may run fewer (image to image).
        other_chunks: sections that runs follow beside the one that is looked at.
    """

    jobs: tuple[Job, ...]
    latents: Tensor
    num_steps: int
    other_chunks: tuple[NetworkPlan, ...] = ()

    @cached_property
    def log_peak(self) -> Tensor:
        """The logarithm of each latent's squared range, float64 ``(job,)``: latents may be of any size."""
        low, high = self.latents.double().flatten(1).aminmax(dim=1)
        return (high - low).square().clamp_min(1e-20).log()

    def __add__(self, other: Samples) -> Samples:
        return replace(self, jobs=self.jobs + other.jobs, latents=torch.cat([self.latents, other.latents]))

    def __getitem__(self, chosen: slice | list[int]) -> Samples:
        places = np.arange(len(self.jobs))[chosen]
        return replace(self, jobs=tuple(self.jobs[place] for place in places), latents=self.latents[chosen])


@dataclass(frozen=True)
class Problem:
    """A trace seen by the search.

    Attributes:
        damping: factor that is left in the end of an error at each step, see `measure_damping`; 1 if empty.
        partial: points behind the first blocks, that may be forecast on some steps in place of the trace's own, at
            the price of these blocks.
        apart: whether guidance branches may be computed on different steps.
        branch: the only one that is looked at; all together if None.
        variants: versions of the network that steps may be computed with.
        noise: how far off computed steps are, see `under`.
        against: the branch whose feature is taken off that of `branch`, if any.
        earlier: what a search starts from, on these very steps, if it does; see `hyca_calib.search.start`.
        keys: what plans keep of finished chunks, where the trace is of a video in chunks; None where these are answered
            together, see `Chunking`.
        other_chunks: sections for chunks that the trace is not of; all runs follow them.
        past: what attention to kept keys costs, where budgets are of that, too.
    """

    trace: Trace
    damping: tuple[float, ...] = ()
    partial: tuple[CachePoint, ...] = ()
    apart: bool = False
    branch: str | None = None
    against: str | None = None
    variants: KnownVariants | None = field(default=None, compare=False)
    noise: Array | None = field(default=None, compare=False)
    earlier: NetworkPlan | None = field(default=None, compare=False)
    keys: RetentionSpec | None = field(default_factory=RetentionSpec, compare=False)
    other_chunks: tuple[NetworkPlan, ...] = field(default=(), compare=False)
    past: PastCost | None = field(default=None, compare=False)

    def within(self, budget: Budget) -> Budget:
        """A budget as one of the network's steps alone, see `PastCost`."""
        return budget if self.past is None else self.past.within(budget, self.trace.cost, self.trace.num_steps)

    @property
    def label(self) -> str:
        """The point that is forecast, and what is kept of keys where that is searched, too."""
        kept = f" with keys '{told_keys(self.keys)}'" if self.past is not None and self.keys is not None else ""
        return f"{self.trace.point}{kept}"

    def under(self, schedule: Schedule) -> Problem:
        """The same with what a schedule's computed steps are off, where some have low precision."""
        if used_variants(self.variants, schedule) is None or self.variants is None:
            return self
        return replace(self, noise=self.variants.noise_under(schedule))

    @cached_property
    def identity(self) -> str:
        """Short digest of what was traced and what its numbers mean: names its studies on a shared storage."""
        traced = self.trace.attributes.model_dump(include={"version", "model", "workload", "batch"})
        traced |= {"point": [point.model_dump() for point in self.points], "apart": self.apart}
        traced |= {"damping": [f"{factor:.3g}" for factor in self.damping]} if self.damping else {}
        if self.earlier is not None:
            traced["earlier"] = content_digest(self.earlier, (self.earlier,))
        if (chunks := self.trace.attributes.chunks) is not None:
            traced |= {"chunks": chunks.model_dump(), "keys": self.keys and self.keys.model_dump()}
            traced["other_chunks"] = [content_digest(section, (section,)) for section in self.other_chunks]
            traced |= {"past": asdict(self.past)} if self.past is not None else {}
        return hashlib.sha256(json.dumps(traced, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def points(self) -> tuple[CachePoint, ...]:
        """All that may be forecast; the trace's own first."""
        return (self.trace.point, *self.partial)

    @property
    def named(self) -> dict[str, CachePoint]:
        """The points by what a schedule's actions call them."""
        return {FEATURE: self.trace.point, **{str(point): point for point in self.partial}}

    def at(self, point: CachePoint) -> Problem:
        """The same of one of the trace's points alone."""
        if (point,) == self.points:
            return self
        if point not in self._alone:
            self._alone[point] = Problem(self.trace.at(point), self.damping, noise=self.noise)
        return self._alone[point]

    @cached_property
    def _alone(self) -> dict[CachePoint, Problem]:
        return {}

    def of(self, branch: str) -> Problem:
        """The same of one guidance branch alone, of all for `EVERY`."""
        return self if branch == EVERY else self._branches[branch]

    @cached_property
    def _branches(self) -> dict[str, Problem]:
        return {b: Problem(self.trace, self.damping, branch=b, noise=self.noise) for b in self.trace.branches}

    def beside(self, branch: str, lead: str) -> Problem:
        """The same of the difference of one guidance branch to another.

        Raises:
            TraceError: there are no products of both.
        """
        if not self.trace.crossed:
            raise TraceError(
                f"{self.trace.name} has no products of {branch!r} and {lead!r} with each other, whose tokens differ; "
                "expected a point where they do not, such as 'output'"
            )
        return Problem(self.trace, self.damping, branch=branch, against=lead)

    def gram(self, split: Split) -> Array:
        """``(channel, step, step)``, summed over guidance branches, the mean over the samples of the split; of several
        points their steps one after the other."""
        if self.branch is not None:
            joint, mine = self.joint(split), self._steps_of(self.branch)
            if self.against is None:
                return joint[:, mine, mine]
            lead = self._steps_of(self.against)
            return joint[:, mine, mine] - joint[:, mine, lead] - joint[:, lead, mine] + joint[:, lead, lead]
        if not self.partial:
            gram = np.asarray(self.trace.gram(split) / len(self.trace.samples(split)))
            return gram if self.noise is None else with_noise(gram, self.noise.sum(axis=1))
        return np.asarray(np.einsum("cpasqat->cpsqt", self._apart(split)).reshape(self._shape))

    def _steps_of(self, branch: str) -> slice:
        """The steps of a branch in `joint`."""
        begin = self.trace.branches.index(branch) * self.trace.num_steps
        return slice(begin, begin + self.trace.num_steps)

    def guided(self, split: Split) -> Array:
        """As `gram`, of the feature that guidance makes of all branches'; where that is not known, `gram`."""
        weights = np.asarray(self.trace.guidance)
        if len(weights) < 2 or not self.trace.crossed:
            return self.gram(split)
        if self.branch is not None:
            return np.asarray(self.gram(split) * weights[self.trace.branches.index(self.branch)] ** 2)
        guided = np.einsum("a,b,cpasqbt->cpsqt", weights, weights, self._apart(split), optimize=True)
        return np.asarray(guided.reshape(self._shape))

    def _apart(self, split: Split) -> Array:
        """The joint matrix without the constant, ``(channel, point, branch, step, point, branch, step)``."""
        blocks = self.joint(split)[:, :-1, :-1]
        sizes = len(self.points), len(self.trace.branches), self.trace.num_steps
        return np.asarray(blocks.reshape(len(blocks), *sizes * 2))

    @property
    def _shape(self) -> tuple[int, int, int]:
        size = len(self.points) * self.trace.num_steps
        return self.trace.num_channels, size, size

    @property
    def sources(self) -> tuple[Sources, ...]:
        """What rows may weigh beside the own past of a branch; nothing where guidance is not known."""
        if len(self.trace.branches) == 1:
            return ("constant",)
        return ("all", "branches", "constant") if self.trace.crossed and self.trace.guidance else ()

    def joint(self, split: Split) -> Array:
        """``(channel, regressor, regressor)``, the mean over the samples; see `Trace.joint_gram`."""
        several = self.trace.gram_across(split, self.points) if self.partial else self.trace.joint_gram(split)
        gram = np.asarray(several / len(self.trace.samples(split)))
        return gram if self.noise is None else with_noise(gram, self.noise.reshape(len(gram), -1))

    def places(self, section: NetworkPlan) -> Places:
        """Where the Gram matrices have what a section's rows weigh and forecast."""
        names = {place: name for name, place in section.places.items()}
        points = [names.get(point, "") for point in self.points] if self.partial else [section.only]
        branches = self.trace.branches if section.is_joint or section.branches else [EVERY]
        return places_of(rows_of(section), points, branches, self.trace.num_steps)

    def regressions(self, section: NetworkPlan) -> tuple[Array, Places]:
        """Gram matrices of the fit split for a section's rows, and their places there."""
        joint = section.is_joint or section.branches
        if self.partial:
            return (self.joint if joint else self.gram)("fit"), self.places(section)
        return (self.joint_fit if joint else self.fit), self.places(section)

    @cached_property
    def workload(self) -> Workload:
        """What was traced."""
        return self.trace.workload()

    def samples(self, split: Split) -> Samples:
        """The traced jobs of a split."""
        latents = torch.from_numpy(self.trace.latents_of(split))
        return Samples(self.workload.of(split), latents, self.workload.num_steps, self.other_chunks)

    @property
    def chunking(self) -> Chunking | None:
        """How plans hold a video in chunks, if the trace is of one."""
        chunks = self.trace.attributes.chunks
        return None if chunks is None else Chunking(frames=chunks.frames, lag=chunks.lag, keys=self.keys)

    @cached_property
    def fit(self) -> Array:
        """`gram` of the fit split at the trace's own point."""
        return self.gram("fit")[:, : self.trace.num_steps, : self.trace.num_steps]

    @cached_property
    def joint_fit(self) -> Array:
        """`joint` of the fit split at the trace's own point."""
        return self.at(self.trace.point).joint("fit")

    @cached_property
    def judge(self) -> Array:
        """`guided` of the select split at all points."""
        return self.guided("select")

    @property
    def select(self) -> Array:
        """`guided` of the select split at the trace's own point."""
        return self.judge[:, : self.trace.num_steps, : self.trace.num_steps]

    @cached_property
    def channel_gain(self) -> Array:
        """Mean squared gain of each channel through the network's tail on the fit split, ``(channel,)``."""
        return np.asarray(self.trace.gain.mean(axis=(0, 1)))

    @cached_property
    def step_weights(self) -> Array:
        """Weight of an error at each step: the sampler's response times the tail's gain there, damped, ``(step,)``."""
        known = self.channel_gain > 0
        gain = self.trace.gain.mean(axis=0)[:, known] / self.channel_gain[known]
        return np.asarray(self.trace.response * np.sqrt(gain.mean(axis=1)) * (self.damping or 1.0))

    def axis(self, wanted: str) -> str:
        """`wanted`, one of `AXES`, or "step" where two steps have one time on it, as Heun's two of one noise level."""
        return wanted if len(np.unique(self._positions(wanted))) == self.trace.num_steps else "step"

    def times(self, axis: str) -> Array:
        """Position of each step on `axis`, as far as it can be used, see `axis`."""
        return self._positions(self.axis(axis))

    def _positions(self, axis: str) -> Array:
        sigmas = self.trace.sigmas[:-1]
        if axis == "step":
            return np.arange(self.trace.num_steps, dtype=np.float64)
        if axis == "sigma":
            return np.asarray(sigmas, dtype=np.float64)
        scaled = np.clip(sigmas / max(1.0, sigmas.max()), 1e-3, 1 - 1e-3)  # timesteps, where there are no levels
        return np.asarray(2 * np.log((1 - scaled) / scaled))

"""What the first batch shows of every sample: branches, times, sizes. Kept as ``facts.json``."""

from typing import Self

import numpy as np
from pydantic import BaseModel

from hyca_calib.trace.documents import read_as, write_json
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.recording import PointRecording, Recording
from hyca_calib.trace.request import Request
from hyca_calib.trace.scheduler_response import impulse_response, noise_levels
from hyca_calib.trace.statistics import choose_tokens, comparable, sampling_error
from hyca_calib.trace.streamed import TracedChunks
from hyca_runtime.errors import TraceError

LAYOUT = "facts.json"
TIMES = "timesteps", "scheduler_timesteps", "sigmas", "response"


class PointLayout(BaseModel, frozen=True, extra="forbid"):
    """What is the same for all samples at one point.

    Attributes:
        num_tokens: see `PointRecording`.
        crossed: whether all branches have products with each other; not where their tokens differ.
        stored: ``[branch][part]``, the tokens whose features are stored.
        gram_share: share of the tokens that enter the statistics.
        gram_error: standard error of a channel's energy that comes of that, see `sampling_error`.
        channels: of all parts.
        channel_axis: see `PointRecording`.
    """

    num_tokens: list[list[int]]
    crossed: bool
    stored: list[list[list[int]]]
    gram_share: float
    gram_error: float
    channels: int
    channel_axis: int = -1

    @classmethod
    def of(cls, recording: PointRecording, request: Request) -> Self:
        """The layout that a batch shows."""
        looked_at, seed = recording.tokens, request.workload.seed
        seen, of = (sum(counts) for counts in (map(len, looked_at[0]), recording.num_tokens[0]))
        most = min(request.tokens, *(len(tokens) for branch in looked_at for tokens in branch))
        return cls(
            num_tokens=recording.num_tokens,
            crossed=all(len(groups) == 1 for groups in comparable(looked_at, recording.num_tokens)),
            stored=[[t[choose_tokens(len(t), most, seed)].tolist() for t in branch] for branch in looked_at],
            gram_share=seen / of,
            gram_error=sampling_error(recording.features, recording.num_tokens),
            channels=recording.channels,
            channel_axis=recording.channel_axis,
        )


class Layout(BaseModel, frozen=True, extra="forbid"):
    """What is the same for all samples of a trace.

    Attributes:
        branches, stacked, timesteps, scheduler_timesteps, first_computed: see `Recording`.
        sigmas, response: see `noise_levels` and `impulse_response`.
        points: by key.
        across: whether features of all points are multiplied with each other.
        latent: shape of one sample's final latents.
        chunks: see `Recording`.
    """

    branches: list[str]
    stacked: int
    timesteps: list[float]
    scheduler_timesteps: list[float]
    sigmas: list[float]
    response: list[float]
    points: dict[str, PointLayout]
    latent: list[int]
    first_computed: int = 1
    across: bool = False
    chunks: TracedChunks | None = None

    @classmethod
    def of(cls, recording: Recording, request: Request) -> Self:
        """The layout that a batch shows.

        Raises:
            TraceError: it has a single step.
        """
        if len(recording.timesteps) < 2:
            raise TraceError(
                f"expected the network to be called on two steps or more, got one where {request.workload.num_steps} "
                "were asked for; trace more --steps, or another strength"
            )
        if request.across:
            recording.across()  # refused before anything is stored
        times = recording.scheduler_timesteps or recording.timesteps
        sigmas = noise_levels(recording.scheduler, times)
        response = impulse_response(recording.scheduler, times)
        response = np.diff(sigmas) if response is None else response
        return cls(
            branches=recording.branches,
            stacked=recording.stacked,
            timesteps=recording.timesteps,
            scheduler_timesteps=recording.scheduler_timesteps,
            sigmas=sigmas.tolist(),
            response=response.tolist(),
            points={key: PointLayout.of(of, request) for key, of in recording.points.items()},
            latent=list(recording.latents.shape[1:]),
            first_computed=recording.first_computed,
            across=request.across,
            chunks=recording.chunks,
        )

    def differing(self, other: Self) -> list[str]:
        """Names of what differs from the layout of other samples; what is estimated from a sample may, and digits of
        times that machines calculate otherwise."""
        own, its = (layout.model_dump(exclude={"points": {"__all__": {"gram_error"}}}) for layout in (self, other))
        alike = [name for name in TIMES if len(own[name]) == len(its[name]) and np.allclose(own[name], its[name])]
        return [name for name in own if own[name] != its[name] and name not in alike]

    @property
    def calls(self) -> int:
        """How often the network is called on a step."""
        return len(self.branches) // self.stacked

    @classmethod
    def settled(cls, folder: Folder, recording: Recording, request: Request) -> Self:
        """The layout of earlier batches in `folder`; that of this one, written there, if it is the first."""
        if folder.exists(LAYOUT):
            return read_as(cls, folder, LAYOUT)
        layout = cls.of(recording, request)
        write_json(folder, LAYOUT, layout.model_dump())
        return layout

    def check(self, recording: Recording) -> None:
        """Raises TraceError if a batch differs in what must be the same for all."""
        own = {
            "guidance branches": (self.branches, self.stacked),
            "timesteps": self.timesteps,
            "tokens": {key: of.num_tokens for key, of in self.points.items()},
            "size": self.latent,
            "chunks": self.chunks,
        }
        if differs := [name for name, found in recording.common.items() if found != own[name]]:
            raise TraceError(
                f"samples have different {', '.join(differs)}; trace each resolution and setting on its own"
            )

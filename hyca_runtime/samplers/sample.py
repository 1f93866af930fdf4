"""One sample of a diffusers pipeline, drawn by several lanes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from hyca_runtime.errors import MissingHistoryWarning, SamplerError
from hyca_runtime.plan import Plan
from hyca_runtime.samplers.chords import AfterHits, Called, Chords, Hit, Stop
from hyca_runtime.samplers.conductor import Conductor
from hyca_runtime.samplers.copies import drawn_first, with_copies
from hyca_runtime.samplers.drives import Drive, InOneBatch, OneAfterAnother
from hyca_runtime.samplers.following import Following, Histories
from hyca_runtime.samplers.lanes_run import LanesRun
from hyca_runtime.samplers.ranks import Ranks
from hyca_runtime.samplers.starts import PUBLISHED_STEPS, as_lanes
from hyca_runtime.session import Session

Where = Literal["one after another", "one batch", "ranks"]

FAST_LANE = AfterHits(1)


def sample_chords(
    pipe: Any,
    *,
    starts: int | Sequence[int] = 4,
    stop: Stop = FAST_LANE,
    where: Where | Ranks = "one after another",
    session: Session | None = None,
    plans: Sequence[Plan | None] | None = None,
    histories: Histories = "kept",
    on_hit: Callable[[Hit], None] | None = None,
    on_call: Callable[[int, Called], None] | None = None,
    **call: Any,
) -> LanesRun:
    """Draw one sample, or one batch, by several lanes (CHORDS) with the pipeline's own call.

    Args:
        pipe: a pipeline that steps by FlowMatchEulerDiscreteScheduler or DDIMScheduler.
        starts: the step that each lane begins at, from 0 on; or how many lanes, for published starts.
        stop: when the lanes rest; what they had last is decoded.
        where: "one after another" and in "one batch" in this process, or on "ranks" of `torch.distributed`, one each.
        session: of a plan that is applied to the pipeline, with ``on_mismatch`` "compute" or "adapt": every lane
            follows it with features of its own. A lane begins without any, so its first calls are computed.
        plans: what each lane follows instead, None to compute; for the points of the session.
        histories: what a lane that is corrected does with its features, see `Histories`; they are "carried" within one
            process only.
        on_hit: told every finished sample while the others go on; on ranks, each tells its own process.
        on_call: told the lane of every evaluation, what it was of, and what came of it.
        call: arguments of the pipeline's call.

    Raises:
        SamplerError: the pipeline, its scheduler or the ranks do not allow it, or a rank was lost.
    """
    lanes = len(as_lanes(starts, PUBLISHED_STEPS)) if isinstance(starts, int) else len(starts)
    following = Following(session, plans)
    following.check(lanes, where == "one batch")
    on_correction = following.on_correction(histories)
    if histories == "carried" and (where == "ranks" or isinstance(where, Ranks)):
        raise SamplerError("histories: the slower lane's features are on another rank; expected 'kept' or 'dropped'")
    settings = repr((starts, stop, histories, call.get("num_inference_steps"), following.told()))
    drive, call = _drive(where, lanes, pipe, call, settings)
    begin = partial(Chords, stop=stop, on_hit=on_hit, on_correction=on_correction, on_call=on_call)
    conductor = Conductor(pipe.scheduler, drive, partial(as_lanes, starts), begin, stop, following.at)
    output = drawn_first(_drawn(pipe, conductor, drive, call), drive.copies)
    if conductor.chords is None or not conductor.chords.done:
        raise SamplerError(f"{type(pipe).__name__} did not take all steps of its scheduler; was it interrupted?")
    return _account(output, conductor.chords, conductor.evaluations, drive, following)


def _account(output: Any, chords: Chords, evaluations: int, drive: Drive, following: Following) -> LanesRun:
    calls = chords.lanes.calls(chords.passes)
    own = drive.own(len(calls))
    computed = drive.shared(following.computed(own, calls, chords.lanes.num_steps))
    spare = evaluations * drive.copies - sum(calls[lane] for lane in own)
    return LanesRun(
        output=output,
        lanes=chords.lanes,
        sampler=chords.sampler,
        passes=chords.passes,
        hits=tuple(chords.hits),
        calls=calls,
        computed_at=tuple(tuple(row.nonzero().flatten().tolist()) for row in computed),
        spare=spare,
    )


def _drive(
    where: Where | Ranks, lanes: int, pipe: Any, call: dict[str, Any], settings: str
) -> tuple[Drive, dict[str, Any]]:
    if where == "one batch":
        call, samples = with_copies(call, lanes)
        return InOneBatch(lanes, samples), call
    if where == "one after another":
        return OneAfterAnother(), call
    ranks = Ranks() if where == "ranks" else where
    if not isinstance(ranks, Ranks):
        raise SamplerError(f"where: expected 'one after another', 'one batch' or 'ranks', got {where!r}")
    ranks.meet(pipe, lanes, settings)
    return ranks, call


def _drawn(pipe: Any, conductor: Conductor, drive: Drive, call: dict[str, Any]) -> Any:
    """What a pipeline returns that steps by a conductor; afterwards it has its own scheduler again."""
    own, pipe.scheduler = pipe.scheduler, conductor.scheduler
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MissingHistoryWarning)  # lanes begin late
            return pipe(**call)
    except (RuntimeError, ValueError) as error:
        if drive.copies == 1 or conductor.evaluations or isinstance(error, SamplerError):
            raise
        raise SamplerError(
            f"{type(pipe).__name__} cannot draw lanes in one batch, where samples have times of their own: {error}"
        ) from error
    finally:
        conductor.close()
        pipe.scheduler = own

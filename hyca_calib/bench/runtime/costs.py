"""What the runtime itself costs, as values and as the file that is committed."""

from dataclasses import dataclass

from hyca_calib.records.provenance import Provenance


@dataclass(frozen=True)
class SumSpeed:
    """The weighted sum against a copy of the same tensor on the same device.

    Attributes:
        share: bytes a second of the sum over those of the copy.
    """

    shape: tuple[int, ...]
    dtype: str
    taps: int
    sum_gb_per_s: float
    copy_gb_per_s: float
    share: float


@dataclass(frozen=True)
class Overhead:
    """Milliseconds that a plan adds to a step that is computed anyway.

    Attributes:
        blocks: of the network; their width is tiny, so that Python is what is measured.
        network_ms: median time inside the network's own forward.
        added_ms: median of what the same calls took beyond that.
    """

    network: str
    blocks: int
    network_ms: float
    added_ms: float


@dataclass(frozen=True)
class TimedCache:
    """Another cache on the same network, timed in turn with it.

    Attributes:
        computed: steps on which the last layer of the last block ran.
        speed_up: wall time of the full run over that with the cache, medians.
    """

    name: str
    computed: int = 0
    speed_up: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Realised:
    """Wall-clock of a run under a plan.

    Attributes:
        speed_up: wall time of the full run over that of the planned one, medians.
        full_step_ms, predicted_step_ms: per call of the network.
        added_bytes: peak memory of the planned run over the full one's on a GPU, features held on a CPU.
        rivals: other caches that compute as many steps.
    """

    network: str
    dtype: str
    parameters: int
    steps: int
    computed: int
    ideal: float
    speed_up: float
    share: float
    full_step_ms: float
    predicted_step_ms: float
    added_bytes: int
    weight_bytes: int
    rivals: tuple[TimedCache, ...] = ()


class RuntimeCosts(Provenance, frozen=True):
    """All that was measured of the runtime on one device."""

    sum: tuple[SumSpeed, ...]
    overhead: Overhead
    realised: tuple[Realised, ...] = ()


@dataclass(frozen=True)
class TimedVariant:
    """A step that is computed with quantised weights beside one with the network's own, in turn.

    Attributes:
        variant: how weights are quantised, in words.
        own_step_ms, step_ms: per call of the network, medians.
        own_bytes: of the weights that are quantised, as the network has them.
        bytes: what the variant really takes beside them.
        error: why there is none of it here.
    """

    network: str
    dtype: str
    variant: str
    own_step_ms: float = 0.0
    step_ms: float = 0.0
    own_bytes: int = 0
    bytes: int = 0
    error: str = ""


class PrecisionCosts(Provenance, frozen=True):
    """What quantised weights take on one device."""

    variants: tuple[TimedVariant, ...] = ()

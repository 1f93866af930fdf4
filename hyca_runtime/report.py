"""What a session did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hyca_runtime.moment import Stream
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies import Surprises
from hyca_runtime.schedule import Action
from hyca_runtime.variant import VariantSpec


@dataclass
class StreamCount:
    """Calls of one stream during its current run by what they did, and the most bytes its features took.

    Attributes:
        surprises: steps on which a policy learnt how far forecasts of a computed call would be off, and how far.
    """

    actions: Counter[Action] = field(default_factory=Counter)
    surprises: list[tuple[float, Surprises]] = field(default_factory=list)
    forecast_flops: int = 0
    cache_bytes: int = 0
    waits: int = 0

    def add(self, action: Action) -> None:
        """Count a call."""
        self.actions[action] += 1

    def computed_after_all(self, action: Action, instead: Action) -> None:
        """Count the latest call by another action than it was counted by."""
        self.actions[action] -= 1
        self.actions[instead] += 1

    @property
    def computed(self) -> int:
        """Calls on which all of the network ran."""
        return sum(count for action, count in self.actions.items() if action.computes)

    def ran(self, variant: str) -> int:
        """Calls that ran the weights of a variant."""
        return sum(count for action, count in self.actions.items() if action.variant == variant)

    @property
    def predicted(self) -> int:
        """Calls on which something was forecast."""
        return self.steps - self.computed

    @property
    def steps(self) -> int:
        return self.actions.total()


@dataclass(frozen=True)
class RunReport:
    """Account of the latest run.

    Attributes:
        streams: calls per network of the pipeline ("" if it has one) and stream of it.
        computed, steps: steps on which something was computed, and all, of the thread that came furthest; of several
            networks together.
        partly: further steps, on which only layers or some blocks were forecast and the others ran.
        computed_at: the computed steps, counted from 0, where one network follows the plan.
        absent: guidance branches that the plan names and the run did not call.
        off_plan: why steps were computed or adapted that the plan predicts, or "".
        adapted: whether the plan was adapted to the sampler.
        cache_bytes: bytes of features held at most during the run; they are freed at its last step.
        key_bytes: bytes of keys and values of a video in chunks that are kept now, where the plan makes it by chunks.
        forecast_flops: FLOPs of the weighted sums, whole batch.
        waits: decisions that waited for the device, since the plan's policy looks at features.
        flops_ratio: FLOPs of the plan's full run over this run's, of the planned networks; None when the plan does not
            say.
        bits_ratio: the same of bit operations.
        seconds_ratio: the same of seconds of steps, as they were measured for the plan and not in this run.
        followed: the sections of the plan that the run was held against, one for each network that was called, or more
            where chunks have their own.
        networks: the planned networks of the pipeline.
        bytes_ahead: what a run will hold for each sample at most, None when the plan does not say.
        variant_bytes: bytes of quantised weights, beside the network's own, as stored.
    """

    streams: dict[tuple[str, *Stream], StreamCount] = field(default_factory=dict)
    computed: int = 0
    steps: int = 0
    partly: int = 0
    computed_at: tuple[int, ...] = ()
    absent: tuple[str, ...] = ()
    off_plan: str = ""
    adapted: bool = False
    cache_bytes: int = 0
    key_bytes: int = 0
    forecast_flops: int = 0
    waits: int = 0
    flops_ratio: float | None = None
    bits_ratio: float | None = None
    seconds_ratio: float | None = None
    followed: tuple[NetworkPlan, ...] = field(default=(), repr=False)
    bytes_ahead: int | None = None
    variant_bytes: int = 0
    networks: tuple[str, ...] = ("network",)

    @property
    def quantised(self) -> dict[str, VariantSpec]:
        """The variants that the followed sections name."""
        return {name: spec for section in self.followed for name, spec in (section.variants or {}).items()}

    def __str__(self) -> str:
        if not self.steps:
            sizes = {
                "at most {:.3g} MiB of features for each sample": self.bytes_ahead,
                "{:.3g} MiB of quantised weights": self.variant_bytes,
            }
            ahead = [text.format(size / 2**20) for text, size in sizes.items() if size]
            return "; ".join([self.off_plan or "no step has run yet", *ahead])
        ratios = [] if self.partly else [f"{self.steps / max(1, self.computed):.1f}x fewer"]
        if self.flops_ratio is not None:
            ratios.append(f"{self.flops_ratio:.2f}x by FLOPs of the {' and '.join(self.networks)}")
        if self.bits_ratio is not None:
            simulated = " (simulated)" if any(spec.simulated for spec in self.quantised.values()) else ""
            ratios.append(f"{self.bits_ratio:.2f}x by bit operations{simulated}")
        if self.seconds_ratio is not None:
            machines = dict.fromkeys(str(section.timing) for section in self.followed)
            ratios.append(f"{self.seconds_ratio:.2f}x by seconds on {' and '.join(machines)}")
        told = f"{self.computed} of {self.steps} steps computed"
        told += f", {self.partly} in part" if self.partly else ""
        told += f" ({', '.join(ratios)})" if ratios else ""
        keys = f", {self.key_bytes / 2**20:.2f} MiB of keys and values" if self.key_bytes else ""
        lines = [f"{told}, {self.cache_bytes / 2**20:.2f} MiB held{keys}"]
        if len(self.streams) > 1:
            for (network, branch, part, lane), count in self.streams.items():
                thread = f"thread {lane}" if lane else ""
                where = ", ".join(
                    filter(None, [network, branch or "unnamed branch", f"part {part}" if part else "", thread])
                )
                lines.append(f"  {where}: {count.computed} of {count.steps}")
        for name, spec in self.quantised.items():
            lines.append(f"  {sum(count.ran(name) for count in self.streams.values())} calls ran as {name!r}: {spec}")
        if self.variant_bytes:
            lines.append(f"  {self.variant_bytes / 2**20:.2f} MiB of quantised weights beside the network's own")
        if self.absent:
            lines.append(f"  no call of the branches that the plan names {', '.join(map(repr, self.absent))}")
        if self.waits:
            lines.append(f"  {self.waits} decisions waited for the device")
        if self.off_plan:
            lines.append(f"  {'adapted' if self.adapted else 'computed, not predicted'}: {self.off_plan}")
        return "\n".join(lines)

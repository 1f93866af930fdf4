"""What the stages of a calibration really took, beside what was announced of them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from hyca_calib.commands.announced import Announcement
from hyca_calib.costs.memory import peak_memory, resident
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import heard_by, human_bytes

SPENT = "spent.json"


@dataclass(frozen=True)
class Spent:
    """What a stage took, for all budgets together.

    Attributes:
        device, host: most bytes at once, as `StageWork` has them.
    """

    seconds: float = 0.0
    device: int = 0
    host: int = 0


Spending = dict[str, Spent]
_FILE = TypeAdapter(Spending)


def read_spending(folder: Path) -> Spending:
    """What was spent on a calibration; nothing where nobody looked."""
    path = folder / SPENT
    return _FILE.validate_json(path.read_bytes()) if path.exists() else {}


@contextmanager
def spending(folder: Path, device: torch.device) -> Iterator[None]:
    """Keep what the stages inside take in the folder; of a calibration that goes on they add up.

    A stage lasts until another one is heard of. What a killed process spent on its last stage is not known.
    """
    watch = _Watch(folder, device)
    with heard_by(watch.hear):
        try:
            yield
        finally:
            watch.hear(None)


class _Watch:
    """Looks at the clock and at the memory from stage to stage."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._stage: str | None = None
        self._going = ExitStack()

    def hear(self, stage: str | None) -> None:
        if stage == self._stage:
            return
        self._going.close()
        self._stage = stage
        if stage is not None:
            self._going.enter_context(self._measured(stage))

    @contextmanager
    def _measured(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        with peak_memory(self._device) as peak:
            yield
        found = read_spending(self._folder)
        before, held, on_cpu = found.get(stage, Spent()), peak.held or 0, self._device.type == "cpu"
        found[stage] = replace(
            before,
            seconds=before.seconds + time.monotonic() - begun,
            device=max(before.device, 0 if on_cpu else held),
            host=max(before.host, held if on_cpu else resident("VmHWM")),
        )
        with suppress(OSError):  # a complete calibration may be shown where nothing can be written
            write_json(self._folder / SPENT, found)


def told_spending(announced: Announcement, spent: Spending) -> dict[str, str]:
    """What was announced of each stage and what it took, those of several budgets together, and of all in the end."""
    stages = dict.fromkeys(work.stage.split()[0] for work in announced.stages)
    names = [name for name in stages if name in spent]
    return {f"{name}: took": _both(announced, spent, [name]) for name in names} | (
        {"in all: took": _both(announced, spent, names)} if names else {}
    )


def _both(announced: Announcement, spent: Spending, names: list[str]) -> str:
    works = [work for work in announced.stages if work.stage.split()[0] in names]
    real = [spent[name] for name in names]
    expected, took = sum(work.seconds for work in works), sum(one.seconds for one in real)
    parts = [f"{took:.3g} s, announced {expected:.3g} s ({_off(took, expected)})"]
    for kind in ("device", "host"):
        said, held = (max(getattr(one, kind) for one in of) for of in (works, real))
        if said and held:
            parts.append(f"{kind} {human_bytes(held)}, announced {human_bytes(said)} ({_off(held, said)})")
    return "; ".join(parts)


def _off(real: float, announced: float) -> str:
    return f"{100 * (real / announced - 1):+.0f} %" if announced else "nothing announced"

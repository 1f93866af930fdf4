"""Coverage-guided fuzzing of what is read from files: ``python tests/fuzz.py plan|trace SEEDS -runs=20000``.

libFuzzer keeps inputs that reach new code of ours and goes on from them; the mutations are those of JSON that
`mutations.py` knows, and its own of bytes. Anything but a `HycaError`, more than two seconds, and more than a GiB of
memory end the run with a traceback and the input in a file ``crash-*`` of the working folder.
"""

from __future__ import annotations

import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hyca_runtime", "hyca_calib"]):
    from hyca_calib.trace.store import Trace
    from hyca_runtime import HycaError, load_plan

from mutations import mutant

BYTES = 0.3
"""Share of mutations that know nothing of JSON."""
MAX_SECONDS = 2.0
MAX_BYTES = 2**30
"""Above what the interpreter and its modules have."""


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() > BYTES:
        with suppress(ValueError, RecursionError, UnicodeDecodeError, TypeError, AttributeError):
            return mutant(data.decode(), rng)[:max_size]
    return bytes(atheris.Mutate(data, max_size))


def read_plan(folder: Path, content: bytes) -> None:
    path = folder / "plan.json"
    path.write_bytes(content)
    with suppress(HycaError):
        load_plan(path)


def read_trace(folder: Path, content: bytes) -> None:
    """The first byte says which of the trace's documents the others replace."""
    names = sorted(p for p in (folder / "t.zarr").rglob("*.json"))
    victim = names[content[0] % len(names)] if content else names[0]
    whole = victim.read_bytes()
    victim.write_bytes(content[1:])
    try:
        with suppress(HycaError):
            trace = Trace(folder / "t.zarr")
            trace.gram("fit"), trace.workload()
    finally:
        victim.write_bytes(whole)


def in_time(read: Callable[[Path, bytes], None], folder: Path, content: bytes) -> None:
    """libFuzzer's own -timeout is in wall-clock seconds, which a busy machine stretches; it is left for what hangs."""
    begun = time.process_time()
    read(folder, content)
    if (spent := time.process_time() - begun) > MAX_SECONDS:
        raise TimeoutError(f"{spent:.1f} s")


def bound_memory() -> None:
    """More than `MAX_BYTES` become a MemoryError.

    libFuzzer's own -rss_limit_mb is of no use: it reads ``ru_maxrss``, which starts at the peak of whoever started us.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MAX_BYTES, most))


def main() -> None:
    target, seeds, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if target == "trace":
            shutil.copytree(Path(seeds).parent / "t.zarr", folder / "t.zarr")
        read = {"plan": read_plan, "trace": read_trace}[target]
        arguments = [sys.argv[0], seeds, "-timeout=60", "-rss_limit_mb=0", *options]
        atheris.Setup(arguments, lambda content: in_time(read, folder, content), custom_mutator=mutate)
        bound_memory()
        atheris.Fuzz()


if __name__ == "__main__":
    main()

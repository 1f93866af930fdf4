"""One Plan object for each content of a file, from any number of threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
from plans import make_plan

import hyca_runtime.plan_cache
from hyca_runtime import Plan, PlanCache, PlanError, PlanMismatchError, load_plan, save_plan


@pytest.fixture(scope="module")
def plans() -> tuple[Plan, Plan]:
    module = tiny.pipeline().transformer
    return make_plan(module), make_plan(module, (0, 1, 2))


@pytest.fixture
def file(tmp_path: Path, plans: tuple[Plan, Plan]) -> Path:
    path = tmp_path / "plan.json"
    save_plan(plans[0], path)
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is parsed, in order."""
    seen: list[Path] = []

    def load(path: Path) -> Plan:
        seen.append(path)
        return load_plan(path)

    monkeypatch.setattr(hyca_runtime.plan_cache, "load_plan", load)
    return seen


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def touch(path: Path) -> None:
    later = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))


def test_an_unchanged_file_is_read_once(
    file: Path, plans: tuple[Plan, Plan], loaded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PlanCache()
    first = cache.get(file)
    assert first == plans[0]
    monkeypatch.setattr(hyca_runtime.plan_cache, "_digest", lambda path: pytest.fail("hashed again"))
    assert cache.get(str(file)) is first
    monkeypatch.chdir(file.parent)
    assert cache.get("plan.json") is first
    assert loaded == [file]


def test_a_touched_file_is_hashed_once_and_not_parsed(file: Path, loaded: list[Path]) -> None:
    cache = PlanCache()
    first = cache.get(file)
    touch(file)
    assert cache.get(file) is first
    assert cache._kept[file].stamp[0] == file.stat().st_mtime_ns
    assert loaded == [file]


def test_another_content_is_another_plan(file: Path, plans: tuple[Plan, Plan], loaded: list[Path]) -> None:
    cache = PlanCache()
    first = cache.get(file)
    save_plan(plans[1], file)
    second = cache.get(file)
    assert (first, second) == plans
    assert cache.get(file) is second
    assert len(loaded) == 2


def test_a_link_is_followed_anew(file: Path, plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    cache = PlanCache()
    save_plan(plans[1], tmp_path / "other.json")
    link = tmp_path / "current.json"
    link.symlink_to(file)
    assert cache.get(link) is cache.get(file)
    link.unlink()
    link.symlink_to(tmp_path / "other.json")
    assert cache.get(link) is cache.get(tmp_path / "other.json")


def test_an_expected_digest_admits_only_that_content(file: Path, plans: tuple[Plan, Plan], loaded: list[Path]) -> None:
    cache = PlanCache()
    wanted = sha256(file)
    assert cache.get(file, wanted) is cache.get(file, wanted[:12].upper())
    save_plan(plans[1], file)
    with pytest.raises(PlanMismatchError, match=f"expected a plan of SHA-256 {wanted[:16]}, got {sha256(file)}"):
        cache.get(file, wanted[:16])
    assert loaded == [file], "a refused file was parsed"
    assert cache.get(file) == plans[1]
    with pytest.raises(PlanMismatchError):  # now that this content is remembered
        cache.get(file, wanted)


@pytest.mark.parametrize("digest", ["", "0123456789a", "0" * 65, "not a digest", "0123456789ab\n"])
def test_what_is_no_digest_is_refused(file: Path, digest: str) -> None:
    with pytest.raises(PlanError, match="expected 12 to 64 hexadecimal digits"):
        PlanCache().get(file, digest)


@pytest.mark.parametrize("spoil", [lambda p: p.write_text('{"format"'), Path.unlink, lambda p: (p.unlink(), p.mkdir())])
def test_errors_are_those_of_load_plan_and_not_remembered(
    file: Path, plans: tuple[Plan, Plan], spoil: Callable[[Path], object]
) -> None:
    cache = PlanCache()
    cache.get(file)
    spoil(file)
    with pytest.raises(PlanError) as expected:
        load_plan(file)
    for _ in range(2):
        with pytest.raises(PlanError) as found:
            cache.get(file)
        assert str(found.value) == str(expected.value)
    if file.is_dir():
        file.rmdir()
    save_plan(plans[1], file)
    assert cache.get(file) == plans[1]


def test_the_least_recently_used_is_forgotten(tmp_path: Path, plans: tuple[Plan, Plan], loaded: list[Path]) -> None:
    files = [tmp_path / f"{name}.json" for name in "abc"]
    for path in files:
        save_plan(plans[0], path)
    a, b, c = files
    cache = PlanCache(max_plans=2)
    kept = cache.get(a)
    cache.get(b)
    assert cache.get(a) is kept
    cache.get(c)  # b is the oldest use
    assert cache.get(a) is kept
    assert loaded == [a, b, c]
    cache.get(b)
    assert loaded == [a, b, c, b]
    with pytest.raises(PlanError):
        cache.get(tmp_path / "absent.json")
    assert cache.get(a) is kept, "an error pushed a plan out"
    with pytest.raises(ValueError, match="max_plans: expected at least 1, got 0"):
        PlanCache(0)


def test_many_threads_read_a_file_once(file: Path, loaded: list[Path]) -> None:
    cache, start = PlanCache(), threading.Barrier(8)

    def get(_: int) -> Plan:
        start.wait()
        return cache.get(file)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(get, range(8)))
    assert all(plan is found[0] for plan in found)
    assert loaded == [file]


def test_reading_one_file_does_not_hold_up_another(
    file: Path, tmp_path: Path, plans: tuple[Plan, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, begun, go_on = PlanCache(), threading.Event(), threading.Event()
    other = tmp_path / "other.json"
    save_plan(plans[1], other)

    def load(path: Path) -> Plan:
        if path == file:
            begun.set()
            assert go_on.wait(30)
        return load_plan(path)

    monkeypatch.setattr(hyca_runtime.plan_cache, "load_plan", load)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(cache.get, file)
        assert begun.wait(30)
        try:
            assert cache.get(other) == plans[1]
            assert not slow.done()
        finally:
            go_on.set()
        assert slow.result() == plans[0]


def test_a_file_replaced_while_it_is_read_gives_one_content_or_the_other(
    file: Path, plans: tuple[Plan, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digest and plan must be of the same bytes, else an expected digest would admit another plan."""
    cache, before = PlanCache(), sha256(file)

    def load(path: Path) -> Plan:
        if sha256(path) == before:
            save_plan(plans[1], file)
        return load_plan(path)

    monkeypatch.setattr(hyca_runtime.plan_cache, "load_plan", load)
    with pytest.raises(PlanMismatchError, match=before[:12]):
        cache.get(file, before)
    assert cache.get(file) == plans[1]
    assert cache._kept[file].digest == sha256(file)

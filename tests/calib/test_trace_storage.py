"""Nothing lost: interruptions, several writers, damage, full disks, object stores."""

from __future__ import annotations

import errno
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import zarr
from diffusers import FlowMatchEulerDiscreteScheduler
from storage import contents, listed, record
from zarr.errors import ContainsGroupError

from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.commits import Commit, NonFinite
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.merge import merge_traces
from hyca_calib.trace.preflight import Preflight
from hyca_calib.trace.shard_lock import Shard, shard_lock
from hyca_calib.trace.statistics import sampling_error
from hyca_calib.trace.store import Trace
from hyca_calib.trace.verify import discard, verify
from hyca_runtime.errors import TraceError
from hyca_runtime.feature import Feature


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, workload: Workload) -> Path:
    """An uninterrupted trace in batches of four; its splits end in smaller ones."""
    path: Path = tmp_path_factory.mktemp("whole") / "t.zarr"
    assert record(path, workload)
    return path


@pytest.mark.parametrize("committed", range(1, 5))
def test_an_interrupted_trace_ends_with_the_same_bytes(
    whole: Path, tmp_path: Path, workload: Workload, committed: int
) -> None:
    """Stopped after each batch, with half-written files of the next one lying about."""

    left = [committed + 1]

    def stop(done: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    path = tmp_path / "t.zarr"
    with pytest.raises(KeyboardInterrupt):
        record(path, workload, on_samples=stop)
    (path / "latents/c/13").mkdir(parents=True, exist_ok=True)
    (path / "latents/c/13/0.abc.partial").write_bytes(b"half")
    assert record(path, workload)
    assert contents(path) == contents(whole)
    assert listed(path) == listed(whole)


def test_shares_make_one_trace(whole: Path, tmp_path: Path, workload: Workload) -> None:
    """Whatever the order, and resumed with another number of processes."""
    path = tmp_path / "t.zarr"
    assert not record(path, workload, shard=Shard(2, 3))
    assert not record(path, workload, shard=Shard(0, 3))
    assert record(path, workload)
    assert contents(path) == contents(whole)
    assert verify(path) == []


def test_parts_are_gathered(whole: Path, tmp_path: Path, workload: Workload) -> None:
    parts = [tmp_path / f"{rank}.zarr" for rank in range(2)]
    for rank, part in enumerate(parts):
        assert not record(part, workload, shard=Shard(rank, 2))
    out = tmp_path / "out.zarr"
    assert merge_traces(parts[:1], out) == (8, 14)
    assert merge_traces(parts, out) == (14, 14)
    assert contents(out) == contents(whole)
    assert merge_traces([whole], tmp_path / "copy.zarr") == (14, 14)
    assert contents(tmp_path / "copy.zarr") == contents(whole)
    other = tmp_path / "other.zarr"
    record(other, workload, tokens=4, shard=Shard(0, 2))
    with pytest.raises(TraceError, match="another tokens"):
        merge_traces([parts[0], other], tmp_path / "bad.zarr")


def test_parts_of_another_sampler_are_not_gathered(tmp_path: Path, workload: Workload) -> None:
    """The request names the class of a scheduler, not what it was made with."""
    shifted, parts = tiny.pipeline(), [tmp_path / f"{rank}.zarr" for rank in range(2)]
    shifted.scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    record(parts[0], workload, shard=Shard(0, 2))
    record(parts[1], workload, shard=Shard(1, 2), pipe=shifted)
    with pytest.raises(TraceError, match=r"1\.zarr was recorded with other timesteps, .* than the parts before it"):
        merge_traces(parts, tmp_path / "out.zarr")


def test_what_was_discarded_is_gathered_again(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.zarr"
    shutil.copytree(whole, path)
    (path / "facts.json").write_text("{}")
    discard(path, verify(path))
    assert merge_traces([whole], path) == (14, 14)
    assert contents(path) == contents(whole)


def test_every_flipped_byte_is_found(whole: Path, tmp_path: Path) -> None:
    """One byte of every file in turn."""
    path, rng = tmp_path / "t.zarr", random.Random(5)
    shutil.copytree(whole, path)
    files = [key for key in contents(path) if key != "request.json"] + ["cost.json", "manifest.json"]
    assert len(files) > 30
    for key in sorted(files):
        good = (path / key).read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (path / key).write_bytes(bad)
        found = [d for d in verify(path) if d.key == key]
        assert len(found) == 1, key
        (damage,) = found
        assert damage.kind == "changed"
        if "/values/c/" in key or key.startswith("latents/c/"):
            assert int(key.split("/c/")[1].split("/")[0]) in damage.samples
        (path / key).write_bytes(good)
    assert verify(path) == []


@pytest.mark.parametrize(
    "victim",
    [
        "points/trunk/values/c/9/0/0/0/0",
        "points/trunk/batch_gram/c/2/0/0",
        "points/trunk/gram/c/1/0/0",
        "points/trunk/values/zarr.json",
        "zarr.json",
        "commits/000001.json",
        "facts.json",
        "manifest.json",
    ],
)
def test_repair_records_what_is_damaged(whole: Path, tmp_path: Path, workload: Workload, victim: str) -> None:
    path = tmp_path / "t.zarr"
    shutil.copytree(whole, path)
    content = bytearray((path / victim).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (path / victim).write_bytes(content)
    (path / "latents/c/0").mkdir(exist_ok=True)
    (path / "latents/c/0/stray").write_text("not of this trace")
    (path / "notes.txt").write_text("mine")
    damages = verify(path)
    assert {d.key for d in damages} == {victim} | ({"latents/c/0/stray"} if victim != "manifest.json" else set())
    discard(path, damages)
    recorded: list[int] = []
    assert record(path, workload, on_samples=recorded.append)
    batch = {"points/trunk/values/c/9": 4, "points/trunk/batch_gram/c/2": 2, "commits/000001.json": 2, "facts": 4}
    again = next((count for key, count in batch.items() if victim.startswith(key)), 0)
    assert sum(recorded[1:]) == again
    (path / "notes.txt").unlink()
    (path / "latents/c/0/stray").unlink(missing_ok=True)
    assert contents(path) == contents(whole)


@pytest.mark.parametrize("lost", ["points/trunk/gram/c/0", "latents/c/0", "points/trunk/values/c"])
def test_a_trace_without_some_chunks_is_refused(whole: Path, tmp_path: Path, lost: str) -> None:
    """Zarr reads what is not there as zeros."""
    path = tmp_path / "t.zarr"
    shutil.copytree(whole, path)
    shutil.rmtree(path / lost)
    with pytest.raises(TraceError, match=f"{lost}.* is missing"):
        Trace(path)


def test_missing_files_are_named(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.zarr"
    shutil.copytree(whole, path)
    (path / "latents/c/3/0/0").unlink()
    (damage,) = verify(path)
    assert str(damage) == "missing: latents/c/3/0/0 (batch 0, samples 0, 1, 2, 3)"
    with pytest.raises(TraceError, match="no trace here"):
        verify(tmp_path)


def test_two_writers(tmp_path: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyca_calib.trace.shard_lock.PATIENCE_S", 0)
    path = tmp_path / "t.zarr"
    with shard_lock(Folder(path), Shard(1, 2)):
        with pytest.raises(TraceError, match=r"traced by another process \(share 1-of-2\)"):
            record(path, workload, shard=Shard(1, 2))
        with pytest.raises(TraceError, match=r"share 1-of-2.*choose another --out"):
            record(path, workload)
        assert not record(path, workload, shard=Shard(0, 2))
    assert record(path, workload, shard=Shard(1, 2))


def test_a_trace_that_is_being_written_is_not_overwritten(
    tmp_path: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyca_calib.trace.shard_lock.PATIENCE_S", 0)
    for where in (tmp_path / "t.zarr", "memory://overwritten/t.zarr"):
        folder = Folder(where)
        assert record(folder.where, workload)
        before = contents(folder.where)
        if folder.local is None:
            folder.write(".locks/0-of-1.json", json.dumps({"host": "elsewhere", "pid": 7, "time": 2e12}).encode())
            with pytest.raises(TraceError, match="being traced by another process"):
                record(where, workload, tokens=6, overwrite=True)
            folder.delete(".locks/0-of-1.json")
        else:
            with shard_lock(folder, Shard()), pytest.raises(TraceError, match="being traced by another process"):
                record(where, workload, tokens=6, overwrite=True)
        assert contents(folder.where) == before
        assert record(folder.where, workload, tokens=6, overwrite=True)
        assert Trace(folder.where).values("fit").shape[3] == 6


def test_a_rank_that_is_done_leaves_alone_what_others_are_writing(tmp_path: Path, workload: Workload) -> None:
    path = tmp_path / "t.zarr"
    assert not record(path, workload, shard=Shard(0, 2))
    half = path / "runs" / "note.json.partial"
    half.write_text("{")
    with shard_lock(Folder(path), Shard(0, 2)):  # it has nothing to record, but its note is not written yet
        assert record(path, workload, shard=Shard(1, 2))
        assert half.exists()
    (path / "manifest.json").unlink()
    assert record(path, workload, shard=Shard(1, 2))
    assert not half.exists(), "nobody was there to write it"


def test_ranks_that_open_a_store_at_once(tmp_path: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zarr looks, then writes; in between another rank may have made the group."""
    path, opened = tmp_path / "t.zarr", zarr.open_group

    def overtaken(store: Any, *, mode: Any, zarr_format: Any) -> zarr.Group:
        made = opened(store, mode=mode, zarr_format=zarr_format)
        if mode == "a":
            raise ContainsGroupError("made by another")
        return made

    monkeypatch.setattr(zarr, "open_group", overtaken)
    assert record(path, workload)
    assert verify(path) == []


def test_two_writers_of_an_object_store(workload: Workload) -> None:
    url = "memory://two/t.zarr"
    folder = Folder(url)
    folder.write(".locks/0-of-1.json", json.dumps({"host": "elsewhere", "pid": 7, "time": 2e12}).encode())
    with pytest.raises(TraceError, match=r"share 0-of-1, by process 7 on elsewhere"):
        record(url, workload)
    folder.write(".locks/0-of-1.json", json.dumps({"host": "elsewhere", "pid": 7, "time": 1.0}).encode())
    assert record(url, workload)
    assert not folder.exists(".locks/0-of-1.json")


def test_locks_of_an_object_store_that_are_none(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is no longer there when it is read, one was never written whole."""
    folder = Folder("memory://locks/t.zarr")
    folder.write(".locks/0-of-1.json", b"{")
    listing = Folder.listing
    monkeypatch.setattr(Folder, "listing", lambda self, under="": [*listing(self, under), ".locks/0-of-2.json"])
    with shard_lock(folder, Shard()):
        assert json.loads(folder.read(".locks/0-of-1.json"))["time"] > 1e9


@pytest.mark.parametrize("share", ["9/8", "0/2", "1/0", "half"])
def test_shares_that_are_none(share: str) -> None:
    with pytest.raises(TraceError, match=rf"share '?{share}'?: expected K/N"):
        Shard.parse(share)


def test_an_object_store_holds_the_same(whole: Path, workload: Workload) -> None:
    url = "memory://same/t.zarr"
    assert record(url, workload)
    assert contents(url) == contents(whole)
    assert verify(url) == []
    np.testing.assert_array_equal(Trace(url).latents_of("test"), Trace(whole).latents_of("test"))
    Folder(url).write("latents/c/2/0/0", b"rot")
    assert [d.samples for d in verify(url)] == [(0, 1, 2, 3)]


def test_unknown_kinds_of_urls() -> None:
    with pytest.raises(TraceError, match="cannot open carrier"):
        Folder("carrier://pigeon")


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "..", "a\\b", "a\x00"])
def test_no_key_leads_out_of_a_folder(tmp_path: Path, key: str) -> None:
    folder = Folder(tmp_path / "in")
    for act in (folder.read, folder.delete, lambda k: folder.write(k, b"")):
        with pytest.raises(TraceError, match="is no key of a trace"):
            act(key)


def test_no_link_leads_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "secret")
    with pytest.raises(TraceError, match="leads out of the folder"):
        Folder(tmp_path / "in").read("link")


def test_a_full_disk_loses_nothing(
    whole: Path, tmp_path: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, count = tmp_path / "t.zarr", Folder.write, [0]

    def full(self: Folder, key: str, content: bytes) -> None:
        count[0] += key.startswith("commits/")
        if count[0] >= 3:
            with self.clear_errors():
                raise OSError(errno.ENOSPC, "No space left on device")
        write(self, key, content)

    monkeypatch.setattr(Folder, "write", full)
    with pytest.raises(TraceError, match=r"t\.zarr: OSError: \[Errno 28\] No space left on device"):
        record(path, workload)
    monkeypatch.undo()
    with pytest.raises(TraceError, match="incomplete, 6 of 14 samples"):
        Trace(path)
    assert record(path, workload)
    assert contents(path) == contents(whole)


def test_a_folder_that_cannot_be_written(tmp_path: Path, workload: Workload) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match=r"file/t\.zarr: NotADirectoryError"):
        record(tmp_path / "file/t.zarr", workload)


def test_needs_are_told_and_refused(tmp_path: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Preflight] = []
    monkeypatch.setattr(Folder, "free_bytes", lambda self: 1000)
    with pytest.raises(TraceError, match=r"the trace needs .* KiB of disk, 1000 B are free; .* --force"):
        record(tmp_path / "t.zarr", workload, on_preflight=told.append)
    (needs,) = told
    assert f"of {1000} B free" in str(needs)
    record(tmp_path / "t.zarr", workload, force=True, on_preflight=told.append)
    stored = sum(p.stat().st_size for p in (tmp_path / "t.zarr").rglob("c/**/*") if p.is_file())
    assert 0.5 * needs.disk < stored < 1.1 * needs.disk


class Sick:
    """A pipeline whose network returns NaN for some samples at one call."""

    def __init__(self, seeds: set[int], call: int = 5) -> None:
        self.pipe, self.seeds, self.at = tiny.pipeline(), seeds, call
        self.transformer, self.scheduler = self.pipe.transformer, self.pipe.scheduler
        self.count = 0
        inner = self.pipe.transformer.norm_out.forward

        def infected(hidden: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            hidden = hidden.clone()
            for i, seed in enumerate(self.drawn):
                if seed in self.seeds and self.count == self.at:
                    hidden[i, 3, 7] = float("nan")
            return inner(hidden, *args, **kwargs)

        self.pipe.transformer.norm_out.forward = infected

    def __call__(self, **call: Any) -> Any:
        self.count, self.drawn = 0, [g.initial_seed() for g in call["generator"]]
        return self.pipe(**call)


def test_nan_is_reported_and_kept_out(whole: Path, tmp_path: Path, workload: Workload) -> None:
    sick = [workload.jobs[1], workload.jobs[12]]
    pipe = Sick({job.seed for job in sick})
    record(tmp_path / "t.zarr", workload, pipe)
    found, healthy = Trace(tmp_path / "t.zarr"), Trace(whole)
    assert found.attributes.excluded == [1, 12]
    assert [place.sample for place in found.attributes.nonfinite] == [1, 12]
    assert found.samples("fit") == [0, 2, 3, 4, 5]
    assert [job.index for job in found.workload().of("test")] == [8, 9, 10, 11, 13]
    assert np.isfinite(found.gram("fit")).all()
    assert len(found.latents_of("test")) == 5
    assert found.gram("select") == pytest.approx(healthy.gram("select"))
    every = found.values("fit")
    assert np.isfinite(every).all()
    with pytest.raises(TraceError, match="hold NaN or infinity in other samples"):
        found.check_same_samples(healthy)


def test_nan_in_every_batch_leaves_the_gain_of_the_others(whole: Path, tmp_path: Path, workload: Workload) -> None:
    sick = [workload.jobs[1], workload.jobs[4]]
    record(tmp_path / "t.zarr", workload, Sick({job.seed for job in sick}))
    found, healthy = Trace(tmp_path / "t.zarr"), Trace(whole)
    assert found.attributes.excluded == [1, 4], "one in each batch of the fit split"
    np.testing.assert_allclose(found.gain, healthy.gain, rtol=0.5)


def test_the_place_of_nan_is_told(tmp_path: Path, workload: Workload) -> None:
    """A feature, not only what comes of it."""
    pipe = tiny.pipeline()
    block = pipe.transformer.single_transformer_blocks[-1]
    inner = block.forward

    def infected(*args: Any, **kwargs: Any) -> Any:
        text, hidden = inner(*args, **kwargs)
        hidden = hidden.clone()
        hidden[0, 2, 11] = float("inf")
        return text, hidden

    block.forward = infected
    with pytest.raises(TraceError, match="every sample of fit and select and test holds NaN or infinity"):
        record(tmp_path / "t.zarr", workload, pipe, batch=1)
    commit = Commit.read(Folder(tmp_path / "t.zarr"), 0)
    kept = json.loads((tmp_path / "t.zarr" / Commit.key(0)).read_text())["nonfinite"]
    assert kept == [{"sample": 0, "branch": "cond", "step": 0, "channels": [11], "num_channels": 1}]
    assert commit.nonfinite == (NonFinite(sample=0, branch="cond", step=0, channels=(11,), num_channels=1),)


def test_nan_spares_the_error_of_a_sample_of_tokens(tmp_path: Path, workload: Workload) -> None:
    """It is told by what is finite in the first batch; if nothing is, it is the whole."""
    errors = []
    for name, pipe in (("well", None), ("sick", Sick({workload.jobs[1].seed}))):
        record(tmp_path / name, workload, pipe, gram_tokens=8, tokens=3)
        errors.append(Trace(tmp_path / name).of_point.gram_error)
    assert Trace(tmp_path / "sick").attributes.excluded == [1]
    assert errors[1] == pytest.approx(errors[0], rel=0.2)
    lost = Feature((torch.full((1, 4, 2), torch.nan),))
    assert sampling_error([[lost]], [[8]]) == 1


def test_a_sample_of_tokens_stands_for_all(whole: Path, tmp_path: Path, workload: Workload) -> None:
    """Energies are unbiased, and off by the error that is stated, not by much more or less."""
    full, errors, ratios = Trace(whole), [], []
    for seed in range(6):
        other = Workload(workload.prompts, 14, 12, seed=workload.seed)
        record(tmp_path / f"{seed}.zarr", other, gram_tokens=8 + seed % 2, tokens=3)
        sampled = Trace(tmp_path / f"{seed}.zarr")
        assert sampled.of_point.gram_share == (8 + seed % 2) / 16
        energy, truth = (np.einsum("ctt->ct", t.gram("fit")) for t in (sampled, full))
        ratios.append(np.median(np.abs(energy / truth - 1)))
        errors.append(sampled.of_point.gram_error)
        assert set(np.ravel(sampled.array("points/trunk/tokens"))) <= set(range(16))
    assert full.of_point.gram_error == 0
    assert full.of_point.gram_share == 1
    assert 0.2 < np.mean(ratios) / np.mean(errors) < 1.5

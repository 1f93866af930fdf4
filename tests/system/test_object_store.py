"""A trace in S3, as a local server plays it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from storage import contents, record

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.options import SearchOptions, Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import search
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.merge import merge_traces
from hyca_calib.trace.shard_lock import Shard
from hyca_calib.trace.store import Trace
from hyca_calib.trace.verify import discard, verify
from hyca_runtime.errors import TraceError

pytestmark = pytest.mark.filterwarnings("ignore")  # of boto


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    boto3, s3fs = pytest.importorskip("boto3"), pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket="hyca")
        yield "s3://hyca"
    server.stop()
    del host


@pytest.mark.slow
def test_end_to_end(bucket: str, tmp_path: Path, workload: Workload) -> None:
    url, local = f"{bucket}/runs/t.zarr", tmp_path / "t.zarr"
    assert record(local, workload)
    assert not record(url, workload, shard=Shard(0, 2))
    with pytest.raises(TraceError, match=r"incomplete, \d+ of 14 samples"):
        Trace(url)
    assert record(url, workload)
    assert contents(url) == contents(local)
    assert verify(url) == []
    Folder(url).write("latents/c/2/0/0", b"rot")
    (damage,) = verify(url)
    assert damage.samples == (0, 1, 2, 3)
    discard(url, [damage])
    assert record(url, workload)
    assert contents(url) == contents(local)
    assert merge_traces([url], tmp_path / "copy.zarr") == (14, 14)
    problem, budget = Problem(Trace(url)), Budget.parse("3x")
    np.testing.assert_array_equal(problem.select, Problem(Trace(local)).select)
    study = StudyFolder.open(tmp_path / "study", {})
    candidates = tune(problem, (budget,), Tuning(trials=2, timeout=3600), study.journal, 0)[budget]
    plan = search(None, [candidates], budget, study, SearchOptions())
    assert plan.provenance["trace"] == url


@pytest.mark.slow
def test_what_goes_wrong_is_told(bucket: str, workload: Workload) -> None:
    with pytest.raises(TraceError, match=r"s3://nowhere/t\.zarr"):
        record("s3://nowhere/t.zarr", workload)
    with pytest.raises(TraceError, match="no such trace"):
        Trace(f"{bucket}/nothing.zarr")

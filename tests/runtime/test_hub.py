"""Plans from the Hub: huggingface_hub's own code, on a folder laid out as its cache is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from huggingface_hub import constants
from plans import make_plan

from hyca_calib.commands.publishing import push_plan
from hyca_runtime import Plan, PlanCache, PlanError, load_plan, save_plan
from hyca_runtime.integrations.hub import HubAddress, fetch_plan
from hyca_runtime.plan import MAX_PLAN_BYTES

REPO, COMMITS = "someone/plans", ("a" * 40, "b" * 40)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(tiny.pipeline().transformer)
    save_plan(made, tmp_path / "plan.json")
    return made


@pytest.fixture
def snapshot(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the Hub's cache of this machine has of a repository: its main branch, offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    push_plan(tmp_path / "plan.json", REPO, None, tmp_path / "repository")
    kept = tmp_path / "cache" / "models--someone--plans"
    shutil.copytree(tmp_path / "repository", kept / "snapshots" / COMMITS[0])
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(COMMITS[0])
    return kept / "snapshots" / COMMITS[0]


def test_a_plan_of_a_branch_and_of_a_commit(snapshot: Path, plan: Plan) -> None:
    digest = json.loads((snapshot / "plans.json").read_text())["plans"][0]["sha256"]
    for address in (f"hf://{REPO}", f"hf://{REPO}@{COMMITS[0]}", f"hf://{REPO}/plan.json#{digest[:12].upper()}"):
        assert load_plan(address, download=True) == plan
    assert str(HubAddress.parse(f"hf://{REPO}@v1/3x/plan.json#{digest}")) == f"hf://{REPO}@v1/3x/plan.json#{digest}"


def test_nothing_is_fetched_unasked(snapshot: Path) -> None:
    with pytest.raises(PlanError, match="nothing is fetched unasked; allow it with download=True"):
        load_plan(f"hf://{REPO}")
    with pytest.raises(PlanError, match="nothing is fetched unasked"):
        PlanCache().get(f"hf://{REPO}")


@pytest.mark.parametrize(
    "address", ["hf://plans", "hf://a/b/plan.pkl", "hf://a/b/../plan.json", "hf://a/b#12ab", "hf://a/b@x/y"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(PlanError, match=r"expected hf://user/repo\[@revision\]"):
        load_plan(address, download=True)


def test_what_is_not_there_is_told_in_a_line(snapshot: Path) -> None:
    for address in (f"hf://{REPO}@{COMMITS[1]}", "hf://someone/else"):
        with pytest.raises(PlanError, match=r"cannot fetch its plans\.json: ") as told:
            load_plan(address, download=True)
        assert "\n" not in str(told.value)
    with pytest.raises(PlanError, match=r"no plan '3x/plan\.json' in its plans\.json, which lists plan\.json"):
        load_plan(f"hf://{REPO}/3x/plan.json", download=True)


def test_another_content_is_refused(snapshot: Path) -> None:
    with pytest.raises(PlanError, match=f"expected a plan of SHA-256 {'0' * 12}"):
        load_plan(f"hf://{REPO}#{'0' * 12}", download=True)
    text = (snapshot / "plan.json").read_text()
    (snapshot / "plan.json").write_text(text.replace('"test"', '"tset"'))
    with pytest.raises(PlanError, match="its SHA-256 is"):
        load_plan(f"hf://{REPO}", download=True)


def test_sizes_are_limited(snapshot: Path) -> None:
    with pytest.raises(PlanError, match=r"its plan\.json has \d+ bytes, more than it may have \(100\)"):
        fetch_plan(f"hf://{REPO}", 100, download=True)
    with (snapshot / "plan.json").open("a") as file:
        file.write(" ")
    with pytest.raises(PlanError, match=r"more than it may have"):
        fetch_plan(f"hf://{REPO}", MAX_PLAN_BYTES, download=True)
    (snapshot / "plans.json").write_text(" " * (1 << 22) + "{}")
    with pytest.raises(PlanError, match=r"its plans\.json has \d+ bytes"):
        load_plan(f"hf://{REPO}", download=True)


@pytest.mark.parametrize("file", ["/etc/plan.json", "../plan.json", "model.py", "a/../../plan.json"])
def test_an_index_names_nothing_outside(snapshot: Path, file: str) -> None:
    index = json.loads((snapshot / "plans.json").read_text())
    index["plans"][0]["file"] = file
    (snapshot / "plans.json").write_text(json.dumps(index))
    with pytest.raises(PlanError, match=r"expected a \.json or \.safetensors file inside the repository"):
        load_plan(f"hf://{REPO}", download=True)


def test_another_huggingface_hub_is_told(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, revision: str(snapshot / name))
    with pytest.raises(PlanError, match="this huggingface_hub is not as expected"):
        load_plan(f"hf://{REPO}", download=True)

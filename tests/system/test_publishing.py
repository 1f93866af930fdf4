"""``hyca push`` and ``hyca find``: a repository in a folder, and what the Hub would be asked."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import commands
import pytest
import tiny
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError
from plans import make_plan

from hyca_calib.commands.publishing import push_plan
from hyca_calib.records.atomic import replacing
from hyca_runtime import PlanError, load_plan, save_plan
from hyca_runtime.integrations.hub import HubAddress
from hyca_runtime.integrations.plan_index import PlanIndex

REPO = "someone/plans"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a plan with a report's pictures."""
    folder = tmp_path / "study"
    (folder / "pictures").mkdir(parents=True)
    made = make_plan(tiny.pipeline().transformer)
    save_plan(made.model_copy(update={"provenance": {"budget": {"asked": "3x"}}}), folder / "plan.json")
    (folder / "pictures" / "wall.png").write_bytes(b"a picture")
    return folder


def test_a_repository_in_a_folder(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "repository"
    address = push_plan(study, REPO, None, out)
    push_plan(study, REPO, "other", out)
    index = PlanIndex.model_validate_json((out / "plans.json").read_text())
    assert [plan.file for plan in index.plans] == ["other/plan.json", "plan.json"]
    assert address == f"hf://{REPO}#{index.plans[1].sha256[:12]}"
    assert load_plan(out / "other") == load_plan(study)
    card = (out / "README.md").read_text()
    told = "transformer: FluxTransformer2DModel", "| 4 of 12 | 2.94x by FLOPs | none |", "Asked for: 3x.", address
    assert all(what in card for what in told)
    for plan in index.plans:
        assert all((out / picture).read_bytes() == b"a picture" and f"({picture})" in card for picture in plan.pictures)
        assert len(plan.pictures) == 1
    kept = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in kept} == {".json", ".md", ".png"}, "nothing else is pushed"


def test_what_others_put_there_is_not_written_over(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "project"
    out.mkdir()
    for name in ("README.md", "plan.json"):
        (out / name).write_text("of somebody")
        with pytest.raises(PlanError, match=rf"{name} is there, and no plans\.json that knows it"):
            push_plan(study, REPO, None, out)
        assert {path.name for path in out.iterdir()} == {name}, "nothing was written"
        assert (out / name).read_text() == "of somebody"
        (out / name).unlink()
    with pytest.raises(PlanError, match="expected a folder"):
        push_plan(study, REPO, None, study / "plan.json")
    push_plan(study, REPO, None, study)
    push_plan(study, REPO, None, study)
    assert (study / "plans.json").exists(), "a study may be its own repository"


def test_a_plan_of_another_model_is_not_written_over(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    push_plan(study, REPO, None, out)
    before = (out / "plan.json").read_bytes()
    save_plan(make_plan(tiny.glyphs().transformer), study / "plan.json")
    with pytest.raises(PlanError, match=r"plan\.json of someone/plans is '.*', for another model; .* by --name"):
        push_plan(study, REPO, None, out)
    assert (out / "plan.json").read_bytes() == before
    push_plan(study, REPO, "glyphs", out)


@pytest.mark.parametrize("repo", [f"{REPO}@dev", f"{REPO}/3x/plan.json", f"{REPO}#{'0' * 12}"])
def test_a_repository_has_a_name_and_no_more(study: Path, tmp_path: Path, repo: str) -> None:
    with pytest.raises(PlanError, match="expected user/name of a repository; --name makes a folder in it"):
        push_plan(study, repo, None, tmp_path / "repository")


def test_a_push_that_is_killed(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the index is written it lists what it did, and nothing is there by halves."""
    out = tmp_path / "repository"
    for left in range(3):
        written = iter(range(left))

        @contextmanager
        def dying(path: Path, written: Iterator[int] = written) -> Iterator[Path]:
            if next(written, None) is None:
                raise KeyboardInterrupt
            with replacing(path) as partial:
                yield partial

        with monkeypatch.context() as patch:
            patch.setattr("hyca_calib.commands.publishing.replacing", dying)
            with pytest.raises(KeyboardInterrupt):
                push_plan(study, REPO, None, out)
        assert not (out / "plans.json").exists()
        assert left == 0 or load_plan(out) == load_plan(study)
    push_plan(study, REPO, None, out)
    assert PlanIndex.model_validate_json((out / "plans.json").read_text()).plans


def test_plans_are_found_by_fingerprint(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    push_plan(study, REPO, None, out)
    found = commands.run("find", "--model", "tiny:pipeline", "--steps", "12", "--index", str(out))
    assert found.exit_code == 0, found.output
    assert found.stdout == f"{out}/plan.json: test; transformer 4 of 12 steps, 2.94x by FLOPs, no certificate\n"
    found = commands.run("find", "--model", "tiny:pipeline", "--steps", "28", "--index", str(out))
    assert found.stdout == "no plan for tiny:pipeline with 28 steps\n"


class Hub:
    """Remembers what it is asked; refuses what the real one's signatures do."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        real = inspect.signature(getattr(HfApi, name))

        def call(*args: Any, **kwargs: Any) -> Any:
            self.asked.append((name, dict(real.bind(self, *args, **kwargs).arguments)))
            return SimpleNamespace(oid="c" * 40)

        return call


def test_the_hub_is_asked_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    with mock.patch("hyca_calib.commands.publishing.fetch_index", return_value=(PlanIndex(), "b" * 40)):
        address = push_plan(study, REPO, "fast", None)
    assert HubAddress.parse(address).revision == "c" * 40
    (made, _), (commit, told) = hub.asked
    assert (made, commit) == ("create_repo", "create_commit")
    assert told["parent_commit"] == "b" * 40, "what others put there meanwhile is not lost"
    names = {operation.path_in_repo for operation in told["operations"]}
    assert names == {"fast/plan.json", "plans.json", "README.md", "fast/pictures/wall.png"}


def test_a_repository_that_is_not_there_yet(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of it, so nothing is lost; where the Hub does not answer, nothing is pushed."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    for cause, pushes in ((RepositoryNotFoundError, True), (LocalEntryNotFoundError, False)):
        error = PlanError("cannot fetch")
        error.__cause__ = cause.__new__(cause)
        hub.asked.clear()
        with mock.patch("hyca_calib.commands.publishing.fetch_index", side_effect=error):
            if pushes:
                assert push_plan(study, REPO, None, None).startswith(f"hf://{REPO}@{'c' * 40}#")
                assert hub.asked[1][1]["parent_commit"] is None
            else:
                with pytest.raises(PlanError, match="cannot fetch"):
                    push_plan(study, REPO, None, None)
                assert hub.asked == []


def test_a_repository_of_something_else(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has a card, and no index of plans: a model's, say."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    error = PlanError("cannot fetch")
    error.__cause__ = RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
    with (
        mock.patch("hyca_calib.commands.publishing.fetch_index", side_effect=error),
        pytest.raises(PlanError, match=r"someone/plans/README\.md is there, and no plans\.json that knows it"),
    ):
        push_plan(study, REPO, None, None)
    assert [name for name, _ in hub.asked] == ["file_exists"]


def test_what_the_hub_refuses_is_told(study: Path) -> None:
    refused = mock.Mock(create_repo=mock.Mock(side_effect=OSError("401 who are you\nmore")))
    with (
        mock.patch("hyca_calib.commands.publishing.fetch_index", return_value=(PlanIndex(), None)),
        mock.patch("huggingface_hub.HfApi", return_value=refused),
        pytest.raises(PlanError, match="cannot push to someone/plans: 401 who are you; `hf auth login`"),
    ):
        push_plan(study, REPO, None, None)

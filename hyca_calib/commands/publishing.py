"""Plans for others: put into a repository of the Hub, and found there."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.records.atomic import replacing
from hyca_calib.records.console import say
from hyca_calib.report.card import plan_card
from hyca_calib.report.steps import told_budget, told_ratios
from hyca_runtime import Plan, PlanError, load_plan
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.certified import valid_certificate
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.integrations.hub import HubAddress, fetch_index, is_on_hub
from hyca_runtime.integrations.plan_index import INDEX_FILE, IndexedNetwork, IndexedPlan, PlanIndex, read_index
from hyca_runtime.plan import plan_file

CARD = "README.md"
PICTURES = ("wall", "front", "schedule")
"""Pictures of a report that a card shows, where the plan's study has them."""


@dataclass(frozen=True)
class Found:
    """A plan of an index.

    Attributes:
        address: what `load_plan` takes.
    """

    address: str
    plan: IndexedPlan

    def __str__(self) -> str:
        told = []
        for network in self.plan.networks:
            sure = ", ".join(filter(None, [told_ratios(network), network.certificate or "no certificate"]))
            told.append(f"{network.component} {network.computed} of {network.steps} steps, {sure}")
        return f"{self.address}: {self.plan.name}; {'; '.join(told)}"


def push_plan(path: Path, repo: str, name: str | None, folder: Path | None) -> str:
    """``hyca push``; returns the address of the plan, with the commit and the digest that it cannot change under.

    Args:
        path: the plan, or its study.
        repo: ``user/name``; it is made where there is none.
        name: of the plan's folder in the repository, for those with several.
        folder: where it is all written instead, as it would lie in the repository.

    Raises:
        PlanError: there is no sound plan, or what would be written over is for another model, or not of a repository
            of plans.
    """
    target = HubAddress.parse(f"hf://{repo}" + (f"/{name}/plan.json" if name else ""))
    if target.repo != repo:
        raise PlanError(f"{repo!r}: expected user/name of a repository; --name makes a folder in it")
    plan, file = load_plan(path), plan_file(path)
    pictures = _pictures(file.parent, target.file.removesuffix("plan.json"))
    entry = indexed(plan, file, target.file, [*pictures])
    held, commit = _held(folder, target)
    networks = {network.component: (network.transformer, network.config_digest) for network in entry.networks}
    if other := next((old for old in held.plans if old.file == target.file and not old.fits(networks, None)), None):
        raise PlanError(f"{target.file} of {repo} is {other.name!r}, for another model; choose another place by --name")
    index = held.with_plan(entry)
    contents = {name: found.read_bytes() for name, found in {target.file: file, **pictures}.items()}
    contents[CARD] = plan_card(repo, index).encode()
    contents[INDEX_FILE] = f"{index.model_dump_json(indent=1)}\n".encode()  # last: it lists what is there
    if folder is None:
        commit = _uploaded(repo, contents, commit, f"Plan {plan.name}")
    else:
        _written(folder, contents, held)
    return str(HubAddress(repo, commit, target.file, entry.sha256[:12]))


def indexed(plan: Plan, path: Path, file: str, pictures: Sequence[str] = ()) -> IndexedPlan:
    """What an index says of a plan.

    Args:
        path: where it is.
        file: its name in the repository.
    """
    content = path.read_bytes()
    networks = [
        IndexedNetwork(
            component=section.component,
            transformer=section.model.transformer,
            config_digest=section.model.config_digest,
            scheduler=section.grid.scheduler,
            steps=section.schedule.num_steps,
            computed=len(section.schedule.computed_steps),
            flops_ratio=section.flops_ratio,
            bits_ratio=section.bits_ratio,
            certificate=str(valid) if (valid := valid_certificate(section, plan.sections)) else None,
        )
        for section in plan.sections
    ]
    return IndexedPlan(
        name=plan.name,
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        networks=tuple(networks),
        budget=told_budget(plan),
        pictures=tuple(pictures),
    )


def find_plans(model: str, steps: int | None, indices: Sequence[str], download: bool) -> list[Found]:
    """``hyca find``: the plans of some indices that are for a model.

    Args:
        model: see `load_pipeline`.
        steps: that they must be for; None for any.
        indices: files, folders that have one, or addresses of repositories.
        download: whether these may be fetched, and the model.

    Raises:
        PlanError: an index that is none.
    """
    pipe = load_pipeline(model, "cpu", download)
    networks = {name: (type(of).__name__, config_digest(of)) for name, of in find_transformers(pipe).items()}
    return [found for where in indices for found in _fitting(where, networks, steps, download)]


def _fitting(where: str, networks: Mapping[str, tuple[str, str]], steps: int | None, download: bool) -> list[Found]:
    if is_on_hub(where):
        repo = HubAddress.parse(where)
        index, commit = fetch_index(repo, download)
        places = {plan.file: str(HubAddress(repo.repo, commit, plan.file, plan.sha256[:12])) for plan in index.plans}
    else:
        file = Path(where) / INDEX_FILE if Path(where).is_dir() else Path(where)
        index = read_index(file, str(file))
        places = {plan.file: str(file.parent / plan.file) for plan in index.plans}
    return [Found(places[plan.file], plan) for plan in index.plans if plan.fits(networks, steps)]


def _held(folder: Path | None, target: HubAddress) -> tuple[PlanIndex, str | None]:
    """What the repository has already, and the commit of it."""
    if folder is not None:
        file = folder / INDEX_FILE
        return (read_index(file, str(file)) if file.exists() else PlanIndex()), None
    try:
        return fetch_index(target, download=True)
    except PlanError as error:
        from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

        if not isinstance(error.__cause__, RemoteEntryNotFoundError | RepositoryNotFoundError):
            raise
        if isinstance(error.__cause__, RemoteEntryNotFoundError) and _has_card(target.repo):
            raise _not_ours(f"{target.repo}/{CARD}") from error
        say(f"{target.repo}: no {INDEX_FILE} yet")
        return PlanIndex(), None


def _has_card(repo: str) -> bool:
    from huggingface_hub import HfApi

    try:
        return HfApi().file_exists(repo, CARD)
    except (OSError, ValueError) as error:
        raise _unpushed(repo, error) from error


def _not_ours(what: str) -> PlanError:
    return PlanError(
        f"{what} is there, and no {INDEX_FILE} that knows it, so it would be lost; push to a place of its own, or "
        "remove it"
    )


def _written(folder: Path, contents: Mapping[str, bytes], held: PlanIndex) -> None:
    """Write files into a folder that has the plans of `held`, each whole or not at all."""
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"{folder}: expected a folder")
    ours = {name for plan in held.plans for name in (plan.file, *plan.pictures, CARD, INDEX_FILE)}
    for name, content in contents.items():
        there = folder / name
        if name not in ours and there.exists() and there.read_bytes() != content:
            raise _not_ours(str(there))
    for name, content in contents.items():
        with replacing(folder / name) as partial:
            partial.write_bytes(content)


def _unpushed(repo: str, error: Exception) -> PlanError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return PlanError(f"cannot push to {repo}: {reason}; `hf auth login` tells who you are")


def _uploaded(repo: str, contents: Mapping[str, bytes], before: str | None, told: str) -> str:
    """Put files into a repository in one commit, which it returns; refused by the Hub if another came in between."""
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    try:
        hub.create_repo(repo, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        return hub.create_commit(repo, operations, commit_message=told, parent_commit=before).oid
    except (OSError, ValueError) as error:
        raise _unpushed(repo, error) from error


def _pictures(study: Path, inside: str) -> dict[str, Path]:
    """Pictures of a study's report, by their names in the repository."""
    found = {name: path for name in PICTURES for path in sorted(study.glob(f"*/{name}.png"))}
    return {f"{inside}pictures/{name}.png": path for name, path in found.items()}

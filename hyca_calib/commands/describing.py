"""What lies at a path: a trace, a study or a plan."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hyca_calib.commands.calibration import Settled, kept_evaluation
from hyca_calib.commands.spending import read_spending, told_spending
from hyca_calib.costs.flops import TIMED_TAPS
from hyca_calib.records.console import human_bytes
from hyca_calib.records.origins import announced_in
from hyca_calib.report.steps import (
    MOST_NAMED,
    NETWORK,
    computed_at,
    told_certificate,
    told_points,
    told_policy,
    told_ratios,
    told_setting,
    told_sources,
    told_steps,
)
from hyca_calib.search.fewer_steps import FewerSteps
from hyca_calib.search.past_cost import told_keys
from hyca_calib.search.study import CALIBRATION, CONTENT, StudyFolder
from hyca_calib.trace.commits import NonFinite, committed
from hyca_calib.trace.digests import MANIFEST
from hyca_calib.trace.documents import REQUEST
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.request import Request
from hyca_calib.trace.run_log import RUNS
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.certified import valid_certificate
from hyca_runtime.errors import StudyError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY
from hyca_runtime.starter import UNCALIBRATED

Facts = dict[str, str]


def describe(where: str) -> Facts:
    """What a trace, study or plan is, in a few lines.

    Raises:
        StudyError: nothing of that kind.
    """
    path = Path(where)
    if path.is_file():
        return _of_plan(load_plan(path))
    if _holds_study(path):
        return _of_study(StudyFolder(path))
    if (path / CALIBRATION).is_file():
        return _of_calibration(path)
    folder = Folder(where)
    if folder.exists(REQUEST) or folder.exists(MANIFEST):
        return _of_trace(where)
    if below := sorted(str(study.parent) for study in path.glob("*/plan.json")):
        raise StudyError(f"{where} holds several studies; name one of {', '.join(below)}")
    raise StudyError(f"{where}: neither a trace nor a study nor a plan")


def _holds_study(path: Path) -> bool:
    try:
        return "limits" in json.loads((path / REQUEST).read_text())
    except (OSError, ValueError):
        return False


def _of_plan(plan: Plan) -> Facts:
    facts = {"plan": plan.name}
    if UNCALIBRATED in plan.provenance:
        measured = any(valid_certificate(section, plan.sections) for section in plan.sections)
        cure = "" if measured else ": nothing of it was measured on its model; `hyca evaluate` does"
        facts["calibration"] = f"none, uncalibrated{cure}"
    for section, own in zip(_told_apart(plan.sections), plan.sections, strict=True):
        schedule, name = section.schedule, section.component
        facts[name] = section.model.transformer
        computed = f"{len(schedule.computed_steps)} of {schedule.num_steps} computed"
        usual = " in a usual run" if section.decider.by_sample else ""
        facts[f"{name}: steps"] = f"{computed}{usual}{_ratios(section)}"
        facts[f"{name}: computed"] = " ".join(map(str, schedule.computed_steps))
        if section.chunks is not None:
            kept = f", kept of the past: {told_keys(section.chunks.keys)}" if section.chunks.keys else ""
            facts[f"{name}: chunks"] = f"of {section.chunks.frames} frames{kept}"
        for variant, spec in (section.variants or {}).items():
            at = [step for step, action in enumerate(schedule.actions()) if action.variant == variant]
            facts[f"{name}: {variant}"] = f"{spec} weights on {' '.join(map(str, at)) or 'no step'}"
        if [*computed_at(section)] != [NETWORK]:
            facts[f"{name}: points"] = told_steps(section)
        if len(section.points) > MOST_NAMED:
            facts[f"{name}: at"] = told_points(section)
        else:
            facts |= _of_points(section)
        if len(section.schedule.tables) > 1:
            named = ", ".join(sorted(section.schedule.tables.keys() - {EVERY}))
            facts[f"{name}: by branch"] = f"steps of their own for {named}"
        if sources := told_sources(section):
            facts[f"{name}: also weighed"] = sources
        if section.policy is not None:
            facts[f"{name}: policy"] = told_policy(section.policy)
        facts[f"{name}: sampler"] = section.grid.scheduler
        if section.quality is not None:
            judged = section.quality
            facts[f"{name}: quality"] = (
                f"latent PSNR {judged.psnr_db:.2f} dB, {judged.num_samples} {judged.split} samples"
            )
        if certificate := told_certificate(own, plan):
            facts[f"{name}: certificate"] = certificate
        if made := valid_certificate(own, plan.sections):
            of = f"weights {made.weights[:12]}, workload {made.workload[:12]}, commit {made.commit}"
            facts[f"{name}: certified"] = f"{of}, {_told(made.versions)}"
    if told := announced_in(plan.provenance):
        where = f"{told.device} in {told.dtype}, batches of {told.batch}"
        facts["announced"] = f"{told.seconds:.3g} s a sample, {told.full_seconds:.3g} s in full, on {where}"
    for key in ("trace", "precision", "replayed_cost", "prompts", "threads"):
        if key in plan.provenance:
            facts[key] = str(plan.provenance[key])
    if (beside := FewerSteps.told_in(plan)) is not None:
        facts["beside fewer steps"] = str(beside)
    if isinstance(plan.provenance.get("from"), dict):
        kept = ", kept as it was: it held" if "held" in plan.provenance else ""
        facts["from"] = f"{plan.provenance['from'].get('plan')}{kept}"
    if isinstance(plan.provenance.get("effort"), dict):
        facts["effort"] = _told(plan.provenance["effort"])
    if "versions" in plan.provenance:
        facts["made with"] = _told(plan.provenance["versions"])
    return facts


def _ratios(section: NetworkPlan) -> str:
    """By how much a run is cheaper, in every measure that is known."""
    told = f", {ratios}" if (ratios := told_ratios(section)) else ""
    if section.timing and section.seconds_ratio:
        told += f", {section.seconds_ratio:.2f}x by seconds on {section.timing}, batches of {section.timing.batch}"
    return told


def _of_points(section: NetworkPlan) -> Facts:
    """Where the points are, and how each is forecast."""
    facts, name = Facts(), section.component
    for label, forecast in section.points.items():
        facts[f"{name}: {label}"] = f"at {forecast.at}, {forecast.num_channels} channels"
        for branch, groups in forecast.groups.items():
            solvers: Counter[str] = Counter()
            for group in groups:
                solvers[group.solver.name] += group.indices.size
            told = ", ".join(f"{solver} ({count} channels)" for solver, count in solvers.items())
            facts[f"{name}: {label}, solvers" + (f" of {branch}" if branch != EVERY else "")] = told
    return facts


def _of_study(study: StudyFolder) -> Facts:
    request = json.loads((study.folder / "request.json").read_text())
    own = {key: value for key, value in request.items() if key not in ("traces", CONTENT, "budget", "limits")}
    limits = {**request["limits"], **own}  # what only this preset reads stands beside
    facts = {
        "study": str(study.folder),
        "state": "complete" if study.complete else "begun; give the same `search` command again",
        "budget": request["budget"],
        "traces": ", ".join(request["traces"]),
        "limits": _told({key: told_setting(value) for key, value in limits.items() if value is not None}),
    }
    if "effort" in request:
        facts["effort"] = _told(request["effort"])
    if study.complete:
        result = study.read_result()
        if result["seconds"]:  # of recipes nobody tells
            facts["rollouts"] = str(len(result["rollouts"]))
            facts["seconds"] = _told(result["seconds"])
        facts |= _of_plan(load_plan(study.plan))
    return facts | _took(study.folder)


def _of_calibration(path: Path) -> Facts:
    """Of several budgets; that of one is its study."""
    settled = Settled.read(path)
    studies = [StudyFolder(found.parent) for found in sorted(path.glob("*/request.json")) if _holds_study(found.parent)]
    return {
        "calibration": str(path),
        "model": str(settled.asked.get("model")),
        "budgets": str(settled.asked.get("budget")),
        "effort": _told(settled.effort.told),
        **{study.folder.name: "complete" if study.complete else "begun" for study in studies},
        **_took(path),
    }


def _took(folder: Path) -> Facts:
    """What a calibration took beside what it announced, and a sample under its plan, where that was announced."""
    facts = Facts()
    if (folder / CALIBRATION).is_file() and (announced := Settled.read(folder).announced) is not None:
        facts |= told_spending(announced, read_spending(folder))
    for plan in sorted((*folder.glob("plan.json"), *folder.glob("*/plan.json"))):
        read, found = load_plan(plan), kept_evaluation(plan.parent)
        told = announced_in(read.provenance)
        if told and found and found.seconds:
            facts[f"{read.name}: took"] = told.beside(found.seconds, found.seconds * found.wall_ratio)
    return facts


def _of_trace(where: str) -> Facts:
    folder = Folder(where)
    request = Request.read(folder)
    done = sum(len(request.batches[n]) for n in committed(folder) if n < len(request.batches))
    model, workload = request.model, request.workload
    facts = {
        "trace": where,
        "state": "complete" if folder.exists(MANIFEST) else "begun; give the same `trace` command again",
        "model": f"{model.name} ({model.pipeline}, {model.transformer})",
        "points" if len(request.points) > 1 else "point": ", ".join(map(str, request.points)),
        "samples": f"{done} of {request.num_samples}, of {len(workload.prompts)} prompts, seed {workload.seed}",
        "sampler": f"{model.scheduler}, {workload.num_steps} steps",
        "on disk": human_bytes(folder.stored_bytes("")),
    }
    if folder.exists(MANIFEST):
        trace = Trace(where)
        cost = trace.cost
        if (chunks := trace.attributes.chunks) is not None:
            facts["chunks"] = f"{chunks.which} of {chunks.clip}, of {chunks.frames} frames each"
        facts |= {
            "branches": ", ".join(name or "unnamed" for name in trace.branches),
            "guidance": ", ".join(f"{weight:g}" for weight in trace.guidance) or "unknown",
        }
        facts |= {
            "full step": f"{cost.full_flops / 1e9:.4g} GFLOPs, {cost.full_seconds:.3g} s a sample",
            "timed on": _told(asdict(cost.timed_on)) if cost.timed_on else "not told",
        }
        for of in map(trace.at, trace.points):
            facts |= _of_point(of)
        facts["left out"] = _told_samples(trace.attributes.nonfinite)
    runs = sorted(key for key in folder.listing(RUNS))
    if runs:
        last = json.loads(folder.read(runs[-1]))
        facts["runs"] = f"{len(runs)}; the last on {last['host']} ({last['device']}) from {last['begun']}"
        facts["command"] = last["command"]
        facts["made with"] = _told(last["versions"])
    return facts


def _of_point(trace: Trace) -> Facts:
    at, told, cost = f"{trace.point}: " if len(trace.points) > 1 else "", trace.of_point, trace.cost
    flops = f"{cost.predicted_flops(TIMED_TAPS) / 1e9:.4g} GFLOPs"
    return {
        f"{at}predicted step": f"{flops}, {cost.predicted_seconds:.3g} s a sample, over {TIMED_TAPS} features",
        f"{at}channels": str(trace.num_channels),
        f"{at}tokens": f"{told.num_tokens} of a sample; {100 * told.gram_share:.3g} % of "
        f"them in the statistics (standard error {100 * told.gram_error:.2g} %)",
    }


def _told_apart(sections: Sequence[NetworkPlan]) -> list[NetworkPlan]:
    """Sections, those of one network for several step counts, or for some of the chunks, named for these, too."""
    times = Counter((section.component, section.from_chunk) for section in sections)
    apart = {section.component for section in sections if section.from_chunk}
    names = [
        s.component
        + (f" from chunk {s.from_chunk or 0}" if s.component in apart else "")
        + (f" at {s.schedule.num_steps} steps" if times[s.component, s.from_chunk] > 1 else "")
        for s in sections
    ]
    return [s.model_copy(update={"component": name}) for s, name in zip(sections, names, strict=True)]


def _told(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _told_samples(nonfinite: list[NonFinite]) -> str:
    """Samples with NaN or infinity and where they have them."""
    if not nonfinite:
        return "no sample"
    more = f" and {len(nonfinite) - 8} more" if len(nonfinite) > 8 else ""
    return "NaN or infinity in " + ", ".join(map(str, nonfinite[:8])) + more

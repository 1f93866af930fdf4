"""The judges' margins, and what they detect: ``python -m studies.training.judge_margins --model demo`` makes both.

Full-run pictures of the fit split are damaged on purpose; margins are chosen from them and kept beside the judges. Then
the same is done on the test split, and the outcome of each damaged run against the full run is told, with the share of
resamples of the prompts that have it. A run of the same prompts with other noise is as good by construction: whether
the judge can show that of a run that shares no noise with the other is in the table, too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from hyca_calib.bench.documents.markdown import table
from hyca_calib.bench.equivalence import (
    LEVEL,
    OUTCOMES,
    Departure,
    Effect,
    Margins,
    Outcome,
    PictureDamage,
    departures,
    outcome,
)
from hyca_calib.bench.marks import CONFIDENCE
from hyca_calib.bench.picture_quality import JudgedPictures, judged
from hyca_calib.demo import DEMOS
from hyca_calib.demo.judge import WEIGHTS, load_judge
from hyca_calib.demo.judge.network import Judge
from hyca_calib.pipelines.defaults import prompts_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.rollout import sample_images
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.metrics import image_psnr, prompt_groups
from hyca_calib.records.atomic import write_json, write_text
from hyca_calib.records.provenance import provenance
from studies.training.damage import damaged

SAMPLES = {"demo": 112, "demo-class": 112, "demo-video": 28, "demo-stream": 28}
"""Of the workloads of the published tables."""
MARGIN_DB = 30.0
"""Damage as far from the full run as this is not to pass."""
NEAR_DB = 1.0
"""A damage that cannot be made so strong is none of this level; step counts leave gaps."""
RESAMPLED = 200
OTHER_NOISE = 50_000_017
"""Added to the seeds of a run with other noise."""


def margins(
    judge: Judge,
    full: Tensor,
    jobs: Sequence[Job],
    runs: Sequence[tuple[PictureDamage, Tensor]],
    model: str,
    source: str = "",
) -> Margins:
    """The margins that damaged pictures give.

    Args:
        full: pictures of `jobs` by the full run, ``(sample, 3, frames * height, width)``.
        runs: the same pictures damaged, see `studies.training.damage.damaged`.
    """
    own, groups = judged(judge, full, jobs).marks, prompt_groups(jobs)
    effects = [Effect(way, departures(judged(judge, images, jobs).marks, own, None, groups)) for way, images in runs]
    return chosen_margins(model, effects, source)


def chosen_margins(model: str, effects: Sequence[Effect], source: str = "") -> Margins:
    """The margins that these damages give, by the rule that `Margins` states."""
    strong = [effect for effect in effects if effect.damage.psnr_db <= MARGIN_DB + NEAR_DB]
    if not strong:
        raise ValueError(f"no damage at {MARGIN_DB:.0f} dB among {len(effects)}; damage pictures at that level, too")

    def least(confidence: bool) -> float | None:
        found: dict[str, float] = {}
        for effect in sorted(strong, key=lambda e: -e.damage.psnr_db):
            change = _change(effect, confidence)
            if change is not None:
                found.setdefault(effect.damage.kind, change)
        return min(found.values(), default=None)

    return Margins(model, least(False), least(True), tuple(effects), source)


def _change(effect: Effect, confidence: bool) -> float | None:
    """The largest change that the tests show, either way, of confidence, or of detail and flicker."""
    marks = [d for d in effect.departures if (d.mark == CONFIDENCE) == confidence]
    return max((abs(d.mean) for d in marks if d.high < 0 or d.low > 0), default=None)


@dataclass(frozen=True)
class Detection:
    """What the tests say of one run.

    Attributes:
        name: what was done to it.
        psnr_db: to the full run, mean over the samples.
        outcome: with all samples.
        shares: of resamples of the prompts, by outcome.
        departures: of the marks.
    """

    name: str
    psnr_db: float
    outcome: Outcome
    shares: dict[Outcome, float]
    departures: tuple[Departure, ...]


def detection(
    name: str,
    found: JudgedPictures,
    full: JudgedPictures,
    psnr_db: float,
    limits: Margins,
    groups: Sequence[int],
    seed: int = 0,
) -> Detection:
    """What the tests say of one run, and of resamples of its prompts, each tested like a sample of its own."""
    rng, labels = np.random.default_rng(seed), np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
    for _ in range(RESAMPLED):
        drawn = [members[i] for i in rng.integers(len(members), size=len(members))]
        pick, again = np.concatenate(drawn), np.repeat(range(len(drawn)), [len(of) for of in drawn])
        one, other = ({k: tuple(np.take(v, pick)) for k, v in pictures.marks.items()} for pictures in (found, full))
        counts[outcome(departures(one, other, limits, again.tolist(), int(rng.integers(2**31))))] += 1
    apart = departures(found.marks, full.marks, limits, groups, seed)
    shares = {way: count / RESAMPLED for way, count in counts.items()}
    return Detection(name, psnr_db, outcome(apart), shares, apart)


def detection_table(found: Sequence[Detection], limits: Margins) -> str:
    """Markdown: what the tests say of every run, and how often."""
    marks = [d.mark for d in found[0].departures]
    head = ["run", "PSNR dB", "outcome", *(f"{way}, % of resamples" for way in OUTCOMES)]
    head += [f"{mark}, {'nats' if mark == CONFIDENCE else 'dB'} (90 %)" for mark in marks]
    lines = []
    for run in found:
        cells = [run.name, f"{run.psnr_db:.1f}", run.outcome]
        cells += [f"{100 * run.shares[way]:.0f}" for way in OUTCOMES]
        lines.append(cells + [f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})" for d in run.departures])
    kept = " and ".join(
        f"none of {name}, for no damage changes it" if margin is None else f"{margin:.3f} {unit} of {name}"
        for name, unit, margin in (("detail", "dB", limits.detail), (CONFIDENCE, "nats", limits.confidence))
    )
    told = f"Margins of `{limits.model}`: {kept}; {limits.source}."
    rule = (
        f"Tests at {100 * LEVEL:.0f} %, bootstrap of whole prompts. As good: every mark is shown to be within its "
        "margin. Worse: one is shown to be off, detail either way, confidence downwards, and not all are within. "
        "Resamples vary about the sample as the sample does about the truth, so their shares say less than a new "
        "sample's would."
    )
    return f"{table(head, 'lrl' + 'r' * (len(head) - 3), lines)}\n\n{told} {rule}\n"


def measure(model: str, samples: int, steps: int = 50, batch: int = 8) -> tuple[Margins, list[Detection]]:
    """Margins from the fit split, and what they detect on the test split."""
    judge = load_judge(model)
    if judge is None:
        raise ValueError(f"no judge for {model!r}; expected one of {', '.join(DEMOS)}")
    workload, pipe = Workload(prompts_of(model, None), samples, steps), load_pipeline(model, "cpu")
    fit, test = workload.of("fit"), workload.of("test")

    def draw(jobs: Sequence[Job], steps: int) -> Tensor:
        return sample_images(pipe, jobs, steps, batch)[0]

    full = draw(fit, steps)
    source = f"pictures of {len(fit)} samples of the fit split, {steps} steps, damaged"
    limits = margins(judge, full, fit, damaged(full, judge.frames, fit, draw), model, source)
    full = draw(test, steps)
    own, groups, found = judged(judge, full, test), prompt_groups(test), []
    for way, images in damaged(full, judge.frames, test, draw):
        name = f"{way.kind}, {way.level:.0f} dB (strength {way.strength:.3g})"
        found.append(detection(name, judged(judge, images, test), own, way.psnr_db, limits, groups))
    other = draw([replace(job, seed=job.seed + OTHER_NOISE) for job in test], steps)
    psnr_db = float(np.mean(image_psnr(other, full)))
    found.append(detection("full run, other noise", judged(judge, other, test), own, psnr_db, limits, groups))
    found.append(detection("full run itself", own, own, 150.0, limits, groups))
    return limits, found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(DEMOS), required=True, help="whose judge")
    parser.add_argument("--samples", type=int, help="of the workload (default: those of the published table)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the margins (default: the package's)")
    parser.add_argument(
        "--tables", type=Path, default=Path("studies/bench"), help="folder for MODEL/judge.md and .json"
    )
    args = parser.parse_args()
    limits, found = measure(args.model, args.samples or SAMPLES[args.model])
    made = provenance("cpu")
    write_json(args.out / f"{args.model}-margins.json", {"made": made, "margins": limits})
    text = f"{detection_table(found, limits)}\nMade on {made.date}, commit {made.commit}.\n"
    write_json(args.tables / args.model / "judge.json", {"made": made, "runs": found})
    write_text(args.tables / args.model / "judge.md", text)
    print(text)


if __name__ == "__main__":
    main()

"""The options of the commands: the names, defaults and help of the command line, as values that the commands take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.costs.budget import TOLERANCE
from hyca_calib.demo import DEMOS
from hyca_calib.quality.conformal import LEVEL
from hyca_calib.search.effort import EffortName
from hyca_calib.search.options import RELEASED_THRESHOLD, Grain, Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.replay import Multistep
from hyca_calib.search.sources import BEST, CACHEQUANT, listed
from hyca_calib.trace.run import GRAM_TOKENS
from hyca_calib.trace.streamed import Which
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.policies.paced_by_surprise import MOST_RESPONSE
from hyca_runtime.solvers import Taylor
from hyca_runtime.variant import MAX_PHASES

TRACES, STUDIES = Path("traces"), Path("studies")

Model = Annotated[
    str,
    typer.Option(help=f"{', '.join(DEMOS)}, a diffusers id or folder, or package.module:factory giving a pipeline."),
]
OwnModel = Annotated[
    str | None,
    typer.Option(help="As of trace. Default: the embedded model that the plan is of."),
]
RefineAt = Annotated[
    str | None,
    typer.Option(
        help="Refine through smaller samples, height=512,width=512 or num_frames=17, if errors rank there as at "
        "full size, which is measured; else, and by default, at full size."
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="Text file, one prompt a line; or .jsonl with pipeline arguments, pictures by name. Default: the demo's."
    ),
]
Seed = Annotated[int, typer.Option(help="Source of all randomness.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples per pipeline call. Default: 8 for the demos, else 1.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:N; balanced over GPUs; offload, sequential: moved in as needed. Default: GPU. "
        "Not of a factory, whose pipeline stays where it puts it."
    ),
]
TracedModel = Annotated[
    str | None,
    typer.Option("--model", help="The traced model, where it is code or has moved. Default: the name in the trace."),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch from the Hub what this machine does not have.")]
PlanFile = Annotated[Path, typer.Option(help="plan.json of a study.")]
Json = Annotated[bool, typer.Option("--json", help="Print everything found as JSON.")]


@dataclass(frozen=True)
class TraceOptions:
    """Options of ``hyca trace``."""

    model: Model = "demo"
    prompts: Prompts = None
    samples: Annotated[int, typer.Option(help="Samples in all; 3/7 fit, 1/7 select, 3/7 test.")] = 112
    seed: Seed = 0
    steps: Annotated[int, typer.Option(help="Sampler steps of the full run.")] = 50
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per sample stored whole; statistics use all.")] = 16
    gram_tokens: Annotated[
        int, typer.Option(min=1, help="Of more tokens in one network call (video), statistics use a random subset.")
    ] = GRAM_TOKENS
    point: Annotated[
        str,
        typer.Option(
            help="One, or several with commas, recorded in the same runs. trunk: input of the final norm. "
            "trunk:residual: what the blocks add to a live embedding. "
            "output: what the network returns, any architecture. behind:NUMBER: what the blocks behind the first ones "
            "add. blocks: every block's residual. attention, cross_attention, mlp: all layers of that kind. "
            "span:FIRST..LAST, modules:PATTERN (perhaps with :residual): by path."
        ),
    ] = "trunk"
    across: Annotated[
        bool,
        typer.Option("--across", help="Multiply several points with each other, too: what search --palette needs."),
    ] = False
    chunks: Annotated[
        Which,
        typer.Option(
            help="Of a video whose calls hold chunks at times of their own: all, put together, or the first alone, or "
            "the later ones: two traces, from which search makes plans for each."
        ),
    ] = "all"
    component: Annotated[str, typer.Option(help="Which network of the pipeline; Wan 2.2 has two.")] = "transformer"
    out: Annotated[
        str | None, typer.Option(help="Zarr folder or URL (s3://...). Default: traces/MODEL-POINT-STEPS.zarr.")
    ] = None
    batch: Batch = None
    device: Device = None
    download: Download = False
    share: Annotated[
        str | None,
        typer.Option(help="Trace only part K of N (3/8), as in a job array. Default: what torchrun says, else all."),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a trace of that name.")] = False
    force: Annotated[bool, typer.Option("--force", help="Begin even if memory or disk will not do.")] = False

    @property
    def where(self) -> str:
        """The trace's path or URL."""
        part = "" if self.component == "transformer" else f"-{self.component}"
        model, point = (short_name(name) for name in (self.model, self.point.replace(" ", "")))
        part += "" if self.chunks == "all" else f"-{self.chunks}"
        return self.out or str(TRACES / f"{model}-{point}{part}-{self.steps}.zarr")


@dataclass(frozen=True)
class SearchLimits:
    """Options of ``hyca search`` that say how hard and where it searches."""

    preset: Annotated[
        str,
        typer.Option(help=f"{BEST} searches; published recipes are {listed()}."),
    ] = BEST
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Compute no more than asked; else up to {100 * TOLERANCE:.0f} % more.")
    ] = False
    palette: Annotated[
        str | None,
        typer.Option(
            help="What steps that are not computed may forecast: trunk,behind:1,behind:2 lets some of them run the "
            "first block or two, where that pays. Takes one trace, of these points with --across. The word "
            "branches: guidance branches are computed on steps of their own, where that pays. Default: trunk alone."
        ),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            help="Let computed steps have quantised weights, where that pays: int8 (activations, too), int8_weights, "
            "int4_weights, fp8; several with commas, each alone with the network's own. Give the budget in bit "
            "operations or time: --precision int8 --budget '20x bitops'. int4_weights:simulated tries numbers without "
            f"a kernel. {CACHEQUANT} computes all in one, by default int8."
        ),
    ] = None
    roundings: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_PHASES,
            help="Of --precision int8 and int8_weights: so many roundings of the weights, which steps take in turn, so "
            "that errors do not add up in the sample. Each takes the memory of one.",
        ),
    ] = 2
    keys: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a video in chunks: which keys and values of the past are kept, with settings, such as "
            "'important budget=2' or 'packed budget=2 window=4'. Default: all. Of several --keys "
            "rollouts choose, and attention to what is kept counts in the budget."
        ),
    ] = None
    most_keys: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of a video in chunks: only --keys with which none attends to more chunks of tokens of others."
        ),
    ] = None
    multistep: Annotated[
        Multistep,
        typer.Option(help="How a preset's one-step formulas serve a long gap: over the gap, or step by step."),
    ] = "anchored"
    lookahead: Annotated[
        int, typer.Option(min=1, help="Of smoothcache: most steps in a row on which layers repeat their output.")
    ] = 3
    schedule: Annotated[
        Path | None,
        typer.Option(
            help="A file of a release to follow instead of a budget: a schedule of smoothcache, a router of "
            "learning-to-cache."
        ),
    ] = None
    order: Annotated[
        int, typer.Option(min=0, max=Taylor.orders[-1], help="Of dbcache: order of TaylorSeer's forecast; 0 reuses.")
    ] = 0
    threshold: Annotated[
        float, typer.Option(help="Of learning-to-cache: a layer runs if its gate in the --schedule is above it.")
    ] = RELEASED_THRESHOLD
    free: Annotated[
        bool,
        typer.Option("--free", help="Of learning-to-cache: any step but the first may reuse, not only every other."),
    ] = False
    response: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_RESPONSE,
            help="Of adaptive: how strongly steps move; 0 is not at all. Default: the best of three on select.",
        ),
    ] = None
    fitted: Annotated[
        bool,
        typer.Option(
            "--fitted",
            help="Of presets that decide in each run: forecast by rows fitted to the trace, which is of the preset's "
            "points, and refined in --refine minutes; the preset decides as published.",
        ),
    ] = False
    effort: Annotated[
        EffortName | None,
        typer.Option(
            help="Counts of all that is done, in place of --trials, --timeout, --confirm, --probes, --rollouts, "
            "--refine, --iterations and --fresh: the same plan on every machine, however busy. Default: those limits."
        ),
    ] = None
    trials: Annotated[int, typer.Option(min=1, help="Settings that Optuna tries, for all budgets together.")] = (
        Tuning.trials
    )
    timeout: Annotated[float, typer.Option(min=0, help="Seconds of trials; the first is finished.")] = Tuning.timeout
    confirm: Annotated[float, typer.Option(min=0, help="Minutes of real rollouts; 0 trusts the statistics.")] = (
        RolloutLimits.minutes
    )
    probes: Annotated[
        int, typer.Option(min=0, help="Full runs of one sample that measure how errors are damped; 0 for none.")
    ] = SearchOptions.probes
    rollouts: Annotated[
        int | None,
        typer.Option(min=1, help="Worth of so many at most: with a long --confirm the same everywhere."),
    ] = None
    refine: Annotated[
        float, typer.Option(min=0, help="Minutes of end-to-end refinement of the taps, or of training a router.")
    ] = Refinement.minutes
    iterations: Annotated[
        int | None, typer.Option(min=1, help="At most so many: with a long --refine the same on every machine.")
    ] = None
    fresh: Annotated[
        int, typer.Option(min=0, help="Full runs beyond the trace that refinement learns from, too: it overfits few.")
    ] = SearchOptions.fresh
    refine_at: RefineAt = None
    groups: Annotated[int | None, typer.Option(min=1, help="Fix the number of groups.")] = None
    taps: Annotated[Grain, typer.Option(help="Grain of refined taps: a row per channel or per group.")] = Tuning.taps
    seed: Seed = 0
    storage: Annotated[
        str | None,
        typer.Option(help="Where workers share trials: postgresql://..., grpc://host:port. Default: a file in --out."),
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="How many processes make this search at once.")] = 1
    model: TracedModel = None
    device: Device = None
    download: Download = False


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of ``hyca evaluate``."""

    plan: PlanFile
    model: OwnModel = None
    prompts: Prompts = None
    samples: Annotated[int | None, typer.Option(min=1, help="Test samples. Default: all, 48 for demo.")] = None
    batch: Batch = None
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps. Default: those of the plan.")] = None
    on_mismatch: Annotated[OnMismatch, typer.Option(help="What other steps than the plan's do.")] = "error"
    certify: Annotated[bool, typer.Option(help="Write what was found into the plan, as its certificate.")] = True
    sign: Annotated[
        bool, typer.Option("--sign", help="Bind the certificate to all weights: apply_plan(require=) compares them.")
    ] = False
    level: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Probability of what is said of a new prompt: the surer, the less."),
    ] = LEVEL
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Tell for how many test prompts bounds hold that others of them make.")
    ] = False
    device: Device = None
    download: Download = False


@dataclass(frozen=True)
class CheckOptions:
    """Options of ``hyca check``."""

    plan: PlanFile
    trace: Annotated[str, typer.Option(help="A trace of the runs it is to be used for; 14 samples do.")]
    own_trace: Annotated[
        str | None, typer.Option(help="The trace it was made on. Default: where the plan says it was.")
    ] = None
    model: Annotated[
        str | None, typer.Option(help="Confirm by rollouts of this model, as for trace; they decide the verdict.")
    ] = None
    samples: Annotated[int, typer.Option(min=1, help="Test samples that are rolled out.")] = 8
    batch: Batch = None


def short_name(name: str) -> str:
    """The name of a model or point, as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(name).name)

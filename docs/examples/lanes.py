"""One picture by several ranks, a lane on each; docs/lanes.md explains it.

    torchrun --nproc-per-node 4 docs/examples/lanes.py --prompt "red heart" --starts 0,8,16,32 --out lanes.png

Every rank has the sample in the end; rank 0 writes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from hyca_calib.pipelines.load import load_pipeline
from hyca_runtime import HycaError, apply_plan, load_plan
from hyca_runtime.samplers import AfterHits, sample_chords
from hyca_runtime.samplers.ranks import Ranks


def main() -> None:
    """Draw, and tell what it took."""
    options = _options()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo")
    pipe = load_pipeline(options.model)
    starts, plans, histories = [int(start) for start in options.starts.split(",")], None, "kept"
    if options.lanes:  # of `hyca calibrate --lanes`
        found = json.loads((options.lanes / "lanes.json").read_text())
        starts, histories = found["starts"], found["histories"]
        plans = [load_plan(options.lanes / name) for name in found["plans"]]
    plan = plans[0] if plans else options.plan
    session = apply_plan(pipe, plan, on_mismatch="adapt") if plan else None
    rank = dist.get_rank()
    run = sample_chords(
        pipe,
        starts=starts,
        stop=AfterHits(options.hits),
        where=Ranks(patience=options.patience),
        session=session,
        plans=plans,
        histories=histories,
        on_hit=lambda hit: print(f"lane {hit.lane}: a sample after pass {hit.passes}") if rank == 0 else None,
        prompt=options.prompt,
        num_inference_steps=options.steps,
        generator=torch.Generator().manual_seed(options.seed),  # the same on all ranks
    )
    if rank == 0:
        print(run)
        run.output.images[0].save(options.out)
    dist.destroy_process_group()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--lanes", type=Path, help="lanes/ of a study, in place of --plan and --starts")
    parser.add_argument("--prompt", default="red heart")
    parser.add_argument("--starts", default="0,8,16,32")
    parser.add_argument("--hits", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("lanes.png"))
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except HycaError as error:
        sys.exit(str(error))

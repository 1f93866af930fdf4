"""Lanes of one sample of networks that have learnt something."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_runtime.samplers import AfterHits, sample_chords


@pytest.mark.parametrize("model", ["demo", "demo-class"])
def test_slower_lanes_are_nearer(model: str) -> None:
    pipe, told = demo_pipeline(model), demo_prompts(model)[:2]
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {name: [each[name] for each in told] for name in told[0]}
    call |= {"num_inference_steps": 20, "output_type": "latent", "return_dict": False}
    run = sample_chords(
        pipe, starts=(0, 3, 6, 13), stop=AfterHits(None), generator=torch.Generator().manual_seed(0), **call
    )
    exact = pipe(generator=torch.Generator().manual_seed(0), **call)[0]
    errors = torch.stack([(hit.latents - exact).flatten(1).norm(dim=1) for hit in run.hits])
    assert torch.equal(run.output[0], exact)
    assert all((slower < faster).all() for faster, slower in pairwise(errors))

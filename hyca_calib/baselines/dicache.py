"""DiCache (arXiv 2508.17356) as plans of the runtime: on every call a probe decides, and aligns the forecast.

Swept are the threshold delta of the probe's summed change, m, how many blocks are the probe, rho, the share of the run
that is computed at its start, and the largest gamma of the alignment. With a gamma of 1 it is the paper's ablation, a
family of its own. Each sample is drawn alone, for it decides by itself; the release decides by the mean over the batch.
"""

import json
from functools import partial
from typing import Any

from hyca_calib.baselines.base import Applied, Axis, Family, HalfOpenAxis, Settings, Setup, ladder
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.search.step_caches.dicache import DiCache
from hyca_calib.search.step_caches.rule import ALL_BLOCKS, STACK
from hyca_runtime import Plan
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.errors import AttachError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import parse_plan

MOST_BLOCKS = 5
"""Of a probe; the release recommends 1 to 5."""
RETAINED = (0.0, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
GAMMAS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0)


def dicache_families(pipe: Any, setup: Setup) -> list[Family]:
    """DiCache, and its ablation that reuses what is not computed."""
    released = DiCache.released(type(find_transformer(pipe)).__name__)
    source = "arXiv 2508.17356, re-derived; as plans, each sample alone"
    return [
        _family("DiCache", source, HalfOpenAxis("gamma", GAMMAS, (released.limit,)), pipe, setup),
        _family("DiCache, not aligned", f"{source}; its ablation", Axis("gamma", (1.0,), closed=True), pipe, setup),
    ]


def _family(name: str, source: str, gamma: Axis, pipe: Any, setup: Setup) -> Family:
    """Of a full run it looks at the times and the shape of what all blocks add."""
    num, network = setup.num_steps, find_transformer(pipe)
    released = DiCache.released(type(network).__name__)

    def apply(pipe: Any, settings: Settings) -> Applied:
        def planned() -> str:
            sample = partial(sample_latents, pipe, setup.jobs[:1], num, 1)
            return hand_plan(pipe, {STACK: ALL_BLOCKS}, sample, lambda steps: [0]).model_dump_json()

        plain = parse_plan(json.loads(setup.recall(f"plan of a full run, {ALL_BLOCKS}", planned)), name)
        rule = DiCache(int(settings["m"]), float(settings["rho"]), bool(settings["last"]), float(settings["gamma"]))
        sections = tuple(_probed(section, rule, float(settings["delta"])) for section in plain.sections)
        return followed(pipe, Plan(name=name, sections=sections))

    most = max(1, min(MOST_BLOCKS, len(find_blocks(network)) - 1))
    axes = (
        Axis("delta", ladder(0.005, 10, 1.25), (0.03, 0.06, 0.1, 0.2, 0.4, 1.6)),
        HalfOpenAxis("m", tuple(range(1, most + 1)), (released.blocks,)),
        HalfOpenAxis("rho", RETAINED, (0.0, released.retained)),
        gamma,
        Axis("last", (0, 1), (int(released.last),), closed=True),
    )
    return Family(name, source, axes, apply, num, refused=_refusal(network), alone=True)


def _probed(section: NetworkPlan, rule: DiCache, threshold: float) -> NetworkPlan:
    """A section for the same runs that the probe decides."""
    forecast = rule.forecast(section.forecast.num_channels)
    fields = {name: getattr(section, name) for name in NetworkPlan.model_fields}
    return NetworkPlan(**{**fields, "points": {STACK: forecast}, "policy": rule.policy(threshold).spec()})


def _refusal(network: Any) -> str:
    """Why the network cannot be probed; "" if it can."""
    try:
        Attachment(network, ALL_BLOCKS).late(1)
    except AttachError as error:
        return str(error)
    return ""

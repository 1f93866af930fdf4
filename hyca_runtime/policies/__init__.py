"""Decisions between the actions of a plan; importing this package registers those that ship with HyCa."""

from hyca_runtime.policies.accumulated_change import AccumulatedChange
from hyca_runtime.policies.base import (
    Evidence,
    LearningPolicy,
    Policy,
    PolicySpec,
    ProbingPolicy,
    Surprises,
    policies,
    policy_from_spec,
    register_policy,
)
from hyca_runtime.policies.careful_end import CarefulEnd
from hyca_runtime.policies.change_since_computed import ChangeSinceComputed
from hyca_runtime.policies.chunk_change import ChunkChange
from hyca_runtime.policies.filtered_change import FilteredChange
from hyca_runtime.policies.hierarchical_change import HierarchicalChange, PooledChange
from hyca_runtime.policies.magnitude_ratio import MagnitudeRatio
from hyca_runtime.policies.mixed_granularity import MixedGranularity
from hyca_runtime.policies.paced_by_surprise import PacedBySurprise
from hyca_runtime.policies.probed_change import ProbedChange
from hyca_runtime.policies.rescaled_change import RescaledChange
from hyca_runtime.policies.scheduled import Scheduled

__all__ = [
    "AccumulatedChange",
    "CarefulEnd",
    "ChangeSinceComputed",
    "ChunkChange",
    "Evidence",
    "FilteredChange",
    "HierarchicalChange",
    "LearningPolicy",
    "MagnitudeRatio",
    "MixedGranularity",
    "PacedBySurprise",
    "Policy",
    "PolicySpec",
    "PooledChange",
    "ProbedChange",
    "ProbingPolicy",
    "RescaledChange",
    "Scheduled",
    "Surprises",
    "policies",
    "policy_from_spec",
    "register_policy",
]

"""Decisions between the actions of a plan; importing this package registers those that ship with HyCa."""

from hyca_runtime.policies.base import Policy, PolicySpec, policies, policy_from_spec, register_policy
from hyca_runtime.policies.careful_end import CarefulEnd
from hyca_runtime.policies.scheduled import Scheduled

__all__ = ["CarefulEnd", "Policy", "PolicySpec", "Scheduled", "policies", "policy_from_spec", "register_policy"]

"""When the network is computed."""

from hyca_runtime.policies.base import Policy
from hyca_runtime.policies.scheduled import Scheduled

__all__ = ["Policy", "Scheduled"]

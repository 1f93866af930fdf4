"""Plans without calibration, for a first look at a pipeline."""

from hyca_runtime.starter.starter_plan import UNCALIBRATED, starter_plan

__all__ = ["UNCALIBRATED", "starter_plan"]

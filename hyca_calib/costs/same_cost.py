"""What counts as costing the same."""

SAME_COST = 1.02
"""A method whose FLOPs ratio is up to this much higher counts as spending as much."""
MORE = 1.15
"""A baseline that spends up to so much times our FLOPs costs about the same."""


def costs_the_same(theirs: float, ours: float, step: float) -> bool:
    """Whether a baseline spends as much as a plan: up to 2 % less, and up to 15 % or a step of the full run more."""
    return ours / SAME_COST <= theirs <= max(MORE * ours, ours + step)

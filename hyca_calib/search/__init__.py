"""From traces to plans: grouping, schedules, solvers, rollouts, refinement; and whether a plan still holds."""

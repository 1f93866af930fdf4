"""The pipelines that are worked on: loaded by name, called over a workload, planned by hand, with what they return."""

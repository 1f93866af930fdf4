"""The study: what is claimed of feature caching, tested on real traces. Imported by nothing.

A chapter is an `Outline` (`chapter`). Chapters share one way to read trajectories (`stored`), to sample and to make
plans (`rollouts`), to replay (`replay_setup`), to make intervals (`effects`), to decide and to tell (`ruling`), and to
draw (`drawing`).
"""

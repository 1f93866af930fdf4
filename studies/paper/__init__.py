"""The study: what is claimed of feature caching, tested on real traces. Imported by nothing.

A chapter is an `Outline` (`chapter`). Chapters share one way to sample and to make plans (`rollouts`), to read
trajectories and to replay on them (`replay`), to make intervals and to decide by them (`intervals`), to draw
(`drawing`), and to say it: tables, claims and their evidence are documents in ``texts/`` (`words`).
"""

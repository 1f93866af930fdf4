"""Samplers above the plan: several lanes of one sample.

>>> from hyca_runtime.samplers import sample_chords
>>> run = sample_chords(pipe, prompt="smiling face", starts=(0, 8, 16, 32))  # doctest: +SKIP
>>> print(run)  # doctest: +SKIP
"""

from hyca_runtime.samplers.chords import AfterHits, Called, Hit, OnceClose
from hyca_runtime.samplers.lanes_run import LanesRun
from hyca_runtime.samplers.sample import sample_chords
from hyca_runtime.samplers.starts import PUBLISHED, Lanes, as_lanes, ruled_starts

__all__ = [
    "PUBLISHED",
    "AfterHits",
    "Called",
    "Hit",
    "Lanes",
    "LanesRun",
    "OnceClose",
    "as_lanes",
    "ruled_starts",
    "sample_chords",
]

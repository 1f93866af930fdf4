"""Verdicts that the page no longer has."""

from __future__ import annotations

DROPPED = {
    "Dynamic programming finds the optimum (it equals complete enumeration, and no rival is cheaper).": (
        "true by construction: it could fail only by a fault of the code, for which there are tests"
    ),
    "At least 20,000 schedules are scored per second and core from Gram statistics.": (
        "the threshold was more than a hundred times below what is measured; the table has the rates"
    ),
    "Offline search for a Gram of 3072 channels takes under 5 minutes of processor time and 4 GiB.": (
        "one run, and thresholds several times above it; the table has its time and memory"
    ),
    "A plan holds on other seeds and on unseen prompts (making it again gains at most 1 dB).": (
        "what is made again is fitted on a third of the samples, so it could hardly gain 1 dB; replaced by the "
        "plan's own PSNR on unseen prompts"
    ),
    "Recursive one-step use amplifies errors as the gap grows.": (
        "growth was judged by two means without an interval; replaced by the cost at the longest interval"
    ),
    "The chapter on results: our plans at least 6, 9 or 10 dB above every peer, and nearer to the exact run.": (
        "wrongly measured: the best setting of a peer lay at the edge of its sweep, one damaged the next, DBCache, "
        "SeaCache and FasterCache were disabled. Two verdicts (on FirstBlockCache and MagCache, and on 6 dB over "
        "all that cost more) were false. The comparison is `hyca bench`'s alone"
    ),
}
"""Why, by claim."""

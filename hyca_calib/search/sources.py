"""Published recipes that plans can be made by, and where they are from. Light: help texts read it."""

BEST = "best"
SMOOTHCACHE = "smoothcache"
DICACHE = "dicache"
TEACACHE = "teacache"
MAGCACHE = "magcache"
DBCACHE = "dbcache"
FIRSTBLOCKCACHE = "firstblockcache"
SEACACHE = "seacache"
H2CACHE = "h2cache"
MIXCACHE = "mixcache"
LEARNING_TO_CACHE = "learning-to-cache"
CACHEQUANT = "cachequant"
QUANTCACHE = "quantcache"
FLOWCACHE = "flowcache"
PACKCACHE = "packcache"
ADAPTIVE = "adaptive"

SOURCES = {
    "hold": "FORA, arXiv 2407.01425: reuse, every N-th step computed",
    "taylorseer": "TaylorSeer, arXiv 2503.06923: order 1, three first steps",
    "foca": "FoCa, arXiv 2508.16211: BDF2 forecast, Heun correction",
    "hicache": "HiCache, arXiv 2508.16984: Hermite basis, order 1, contraction 0.5",
    "hyca": "HyCa, arXiv 2510.04188: five solvers, k-means, One-Time Choosing",
    SMOOTHCACHE: "SmoothCache, arXiv 2411.10510: layers of a kind repeat their output by a schedule of their own",
    TEACACHE: "TeaCache, arXiv 2411.19108: a polynomial of the input's change decides, blocks are reused",
    MAGCACHE: "MagCache, arXiv 2506.09045: ratios of magnitudes decide, blocks are reused",
    DBCACHE: "DBCache, cache-dit: the change of front blocks decides about those behind, reused or extrapolated",
    FIRSTBLOCKCACHE: "FirstBlockCache, ParaAttention: the change of the first block decides about the others, reused",
    SEACACHE: "SeaCache, arXiv 2602.18993: the change of the input without its noise decides, blocks are extrapolated",
    H2CACHE: "H2-Cache, arXiv 2510.27171: first blocks, then those behind, are reused until their probe changes",
    DICACHE: "DiCache, arXiv 2508.17356: the change of a shallow probe decides, its trajectory aligns the forecast",
    MIXCACHE: "MixCache, arXiv 2508.12691: output, guidance difference or blocks are reused, by change times impact",
    LEARNING_TO_CACHE: "Learning-to-Cache, arXiv 2406.01733: a trained router says which layers repeat their output",
    CACHEQUANT: "CacheQuant, arXiv 2503.01323: low precision throughout, a span of blocks reused, both corrected",
    QUANTCACHE: "QuantCache, arXiv 2503.06545: steps are reused by counters, bits by importance, blocks passed by",
    FLOWCACHE: "FlowCache, arXiv 2602.10825: each chunk of a video is reused until its input has changed enough",
    PACKCACHE: "PackCache, arXiv 2601.04359: of keys and values of past chunks the fewer are kept the further back",
    ADAPTIVE: "ours: a searched schedule moves in each run with how far forecasts of computed steps would be off",
}


def listed() -> str:
    """All names with their papers, for a help text."""
    return "; ".join(f"{name}: {source.partition(':')[0]}" for name, source in SOURCES.items())

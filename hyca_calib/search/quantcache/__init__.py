"""QuantCache, arXiv 2503.06545: whole steps are reused by skip counters, layers have bits by their importance, and
blocks that change little are passed by. Neither its code nor its constants were released; constants here are ours."""

"""The study: what is claimed of feature caching, tested on real traces. One chapter per file."""

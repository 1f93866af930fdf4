"""Published caches that decide in each run, step by step, whether the blocks of a network are computed."""

"""SmoothCache, arXiv 2411.10510: layers of one kind repeat their latest output on the steps that a schedule of their
kind says, which is made from how fast outputs change in full runs."""

"""kill -9 at any moment: the same command again ends with the same bytes."""

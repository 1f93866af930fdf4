"""The chapter on grouping, question by question."""

"""The chapter on solvers, question by question."""

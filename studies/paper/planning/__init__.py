"""The chapter on offline schedule search, question by question."""

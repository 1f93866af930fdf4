"""The chapter on transfer, piece by piece."""

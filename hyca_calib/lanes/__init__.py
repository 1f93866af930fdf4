"""Several devices for one sample: where its lanes begin, what they follow, and what that is worth."""

"""``--model demo``: a small FLUX that draws emoji, trained by `studies.training.emoji.train`."""

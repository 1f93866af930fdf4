"""``--model demo-class``: a small DiT of capital letters and digits, trained by `studies.training.glyphs.train`."""

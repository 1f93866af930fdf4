"""``--model demo-video``: a small Wan that shows moving emoji, trained by `studies.training.motion.train`."""

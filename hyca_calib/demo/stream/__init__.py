"""``--model demo-stream``, once ``weights`` is here: a small SkyReels-V2 that shows moving emoji chunk by chunk.

It is trained by `studies.training.stream.train`.
"""

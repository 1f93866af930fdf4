"""A small SkyReels-V2 that shows moving emoji chunk by chunk, trained by `studies.training.stream.train`."""

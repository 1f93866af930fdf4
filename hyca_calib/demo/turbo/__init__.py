"""``--model demo-turbo``: the emoji model in eight steps, distilled by `studies.training.emoji.distil`."""

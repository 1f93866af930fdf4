"""A model of a kind that nothing of HyCa was tuned on: sound, in the network of Stable Audio, with its sampler."""

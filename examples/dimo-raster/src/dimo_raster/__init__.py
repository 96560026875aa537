"""A sampler."""

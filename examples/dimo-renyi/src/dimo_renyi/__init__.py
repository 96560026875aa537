"""A divergence."""

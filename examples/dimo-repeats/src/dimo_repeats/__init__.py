"""A metric."""

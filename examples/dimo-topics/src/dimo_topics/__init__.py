"""A source of conditions."""

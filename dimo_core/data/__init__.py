"""Batches of conditions and tokens by global position."""

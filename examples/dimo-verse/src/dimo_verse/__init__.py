"""A teacher of text."""

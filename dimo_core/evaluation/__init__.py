"""Samples drawn, remembered and judged."""

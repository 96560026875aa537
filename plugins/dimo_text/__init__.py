"""Text as data, and what is measured of samples of text."""

"""Embedded text: the King James Version, a reader that judges samples of it, and what it measures.

See ``NOTICE.md`` for where the text comes from and ``READER.md`` for the reader's card.
"""

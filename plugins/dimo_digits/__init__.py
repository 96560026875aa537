"""The embedded data: real handwriting, a reader that judges it, and exact metrics.

``Digits`` is the data, ``DigitReader`` the feature extractor, ``DigitMetrics`` the metric. See
``NOTICE.md`` for where the scans come from and ``READER.md`` for the reader's card.
"""

"""Registers data of text and metrics of samples of text."""

from dimo_core.hookspecs import Register, hookimpl

OFFERS = (
    ("data", "text-files", "files:TextFiles", "text files; a file, a paragraph or a line is a document"),
    ("data", "text-shards", "shards:TextShards", "text in tar files (webdataset), JSON lines or Parquet"),
    ("data", "scripture", "scripture.data:Scripture", "the King James Version by kinds of text (embedded)"),
    ("metric", "entropy", "metric:Entropy", "entropy of the tokens of a sample, in nats"),
    (
        "metric",
        "reading",
        "scripture.metric:ReadingMetrics",
        "perplexity, real words, kind, MAUVE* (embedded)",
    ),
    ("metric", "ngrams", "metric:Ngrams", "divergence of n-grams of tokens from those of held-out text"),
)


@hookimpl
def dimo_register(register: Register) -> None:
    """Three kinds of data, and three metrics."""
    for kind, name, target, summary in OFFERS:
        register(kind, name, f"dimo_text.{target}", summary=summary)

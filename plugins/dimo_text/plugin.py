"""Registers data of text, metrics of samples of text, and the command ``harness``."""

from dimo_core.hookspecs import Register, hookimpl

OFFERS = (
    ("command", "harness", "harness:Harness", "tasks of lm-eval, answered by a generator or a teacher"),
    ("data", "text-files", "files:TextFiles", "text files; a file, a paragraph or a line is a document"),
    ("data", "text-shards", "shards:TextShards", "text in tar files (webdataset), JSON lines or Parquet"),
    ("data", "scripture", "scripture.data:Scripture", "the King James Version by kinds of text (embedded)"),
    ("metric", "entropy", "metric:Entropy", "entropy of the tokens of a sample, in nats"),
    ("data", "text-stream", "streamed:StreamedText", "the same, a shard at a time, through a token cache"),
    ("metric", "answers", "answers:Answers", "share of samples that answer their prompt as a file says"),
    (
        "metric",
        "reading",
        "scripture.metric:ReadingMetrics",
        "perplexity, real words, kind, MAUVE* (embedded)",
    ),
    ("metric", "ngrams", "metric:Ngrams", "divergence of n-grams of tokens from those of held-out text"),
    ("metric", "tokens-per-pass", "metric:TokensPerPass", "length, and tokens by forward pass"),
)


@hookimpl
def dimo_register(register: Register) -> None:
    """Four kinds of data, five metrics and a command."""
    for kind, name, target, summary in OFFERS:
        register(kind, name, f"dimo_text.{target}", summary=summary)

"""Data that an objective is trained on: in memory, or encoded into a token cache first."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs
import torch
from loguru import logger

from dimo_core.data.feeds import CachedFeed, TokenFeed
from dimo_core.data.token_cache import EncodedExamples, TokenCache
from dimo_core.data.token_encoding import encoded
from dimo_core.engine.ranks import Ranks
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.owner import owned
from dimo_core.sources import Data, Examples
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True, eq=False)
class TrainingData:
    """The first split of some data.

    Attributes:
        data: The data.
        examples: All of them, or, where there is a cache, a few.
        cache: The token cache of data that are streamed.
        ranks: The processes, of which the first fills the cache.
    """

    data: Data
    examples: Examples
    cache: TokenCache | None
    ranks: Ranks

    def digest(self) -> str:
        """The SHA-256 of the examples with their conditions."""
        e = self.examples
        digest = hashlib.sha256(json.dumps([e.classes, e.conditions(), *(e.lines or ())]).encode())
        for row in (tensor for tensors in (e.images, e.tokens) if tensors is not None for tensor in tensors):
            digest.update(row.contiguous().numpy())
        return digest.hexdigest()

    def feed(self, teacher: Teacher, *, seed: int, device: torch.device) -> TokenFeed | CachedFeed:
        """Batches of tokens in random order; what is streamed is encoded first.

        Raises:
            UsageError: when the teacher makes no tokens of such examples, too many images are broken, or the
                token cache is one of another tokenizer.
            Interrupted: after a signal, with the encoded shards kept.
        """
        if self.cache is None:
            logger.info("encoding {} examples and their conditions, once", len(self.examples))
            return TokenFeed(teacher, self.data, self.examples, seed=seed, device=device)
        cache, mine = self.cache, list[EncodedExamples]()

        def fill() -> None:
            cache.begin(teacher, self.examples)
            mine.append(encoded(cache, teacher, device))

        self.ranks.led(fill)
        tokens = mine[0] if mine else TokenCache(cache.folder, cache.data, cache.split).load()
        return CachedFeed(teacher=teacher, examples=tokens, seed=seed, device=device)


@contextmanager
def training_data(data: Data, tokens: str | None, folder: Folder, ranks: Ranks) -> Iterator[TrainingData]:
    """The data of a run; within, an unfinished token cache has one writer.

    Args:
        data: The data.
        tokens: Folder or URL of the token cache, for data that are streamed; None for one in ``folder``.
        folder: The run folder.
        ranks: The processes.

    Raises:
        UsageError: when there is nothing to read, ``tokens`` is given for data in memory, or the cache is one
            of other data.
    """
    split = data.splits()[0]
    with ExitStack() as encoding:
        if not data.streams or data.augments:
            if tokens:
                raise UsageError(
                    f"--tokens is for data that are streamed and not augmented; {type(data).__name__} are "
                    "encoded in memory. Leave it out."
                )
            yield TrainingData(data=data, examples=data.load(split), cache=None, ranks=ranks)
            return
        place = Folder(tokens) if tokens else folder.sub("tokens")
        cache = TokenCache(place, data, split)
        if not cache.finished and not folder.mute:
            place = encoding.enter_context(owned(place.url))
            cache = TokenCache(place, data, split)  # another may have begun it meanwhile
        yield TrainingData(data=data, examples=cache.examples(), cache=cache, ranks=ranks)

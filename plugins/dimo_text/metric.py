"""The metrics ``entropy``, ``ngrams`` and ``tokens-per-pass``: of tokens, without text and reader."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
from attrs import validators as v

from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens
from dimo_text.measures import entropy, ngram_divergence


def tokens_of(samples: Samples, whose: str) -> Tokens:
    """The tokens of samples.

    Raises:
        UsageError: where there are none.
    """
    if samples.tokens is None:
        raise UsageError(
            f"{whose} have no tokens, which this metric reads: they are pictures: real data, or a folder"
        )
    return samples.tokens


@attrs.frozen(kw_only=True)
class Entropy(Metric):
    """``entropy``: of the tokens within a sample, in nats, averaged over the samples.

    Neither more nor less of it is better: that of real text is the aim, and repetition lowers it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``entropy``.

        Raises:
            UsageError: for samples without tokens.
        """
        return {"entropy": float(entropy(tokens_of(samples, "these samples"), samples.counted).mean())}


@attrs.frozen(kw_only=True)
class Ngrams(Metric):
    """``ngram_1``, ``ngram_2`` ...: Jensen-Shannon divergence of n-grams from real text's, in nats.

    Attributes:
        longest: The longest n-grams.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {
        f"ngram_{n}": "smaller" for n in (1, 2, 3, 4)
    }
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    longest: int = attrs.field(default=3, validator=[v.ge(1), v.le(4)])

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """One number for each length of n-grams.

        Raises:
            UsageError: without a reference of text, or for too many codes.
        """
        if reference is None:
            raise UsageError(
                "n-grams are compared with those of real text: the evaluation plan names no data"
            )
        ours, real = tokens_of(samples, "these samples"), tokens_of(reference, "the reference samples")
        lengths, codes = range(1, self.longest + 1), teacher.tokens.columns
        try:
            counted = (samples.counted, reference.counted)
            return {f"ngram_{n}": ngram_divergence(ours, real, n, codes, counted) for n in lengths}
        except ValueError as error:
            raise UsageError(f"{error} cannot be counted. Choose a smaller option 'longest'.") from error


@attrs.frozen(kw_only=True)
class TokensPerPass(Metric):
    """``length`` and ``tokens_per_pass``: how many tokens a sample has, and by forward pass (TPF).

    Counted are tokens of the model's own before the first end of the text; two passes where guidance takes
    two. The sum over the samples is divided by that of their passes. Real text has a length alone.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {"tokens_per_pass": "larger"}
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """Both numbers.

        Raises:
            UsageError: for samples without tokens.
        """
        tokens = tokens_of(samples, "these samples")
        count = tokens.numel() if samples.counted is None else int(samples.counted.sum())
        length = {"length": count / len(tokens)}
        return (
            length
            if samples.calls is None
            else {**length, "tokens_per_pass": count / int(samples.calls.sum())}
        )

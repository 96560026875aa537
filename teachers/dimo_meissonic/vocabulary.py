"""A CLIP tokenizer for a small world: each word of its captions becomes one token."""

import json
from collections.abc import Iterable

from dimo_meissonic.libraries import library

START, END = "<|startoftext|>", "<|endoftext|>"
"""The marks of CLIP; the second one also fills prompts up."""

LAST = "</w>"
"""Marks what ends a word."""


def learn_vocabulary(captions: Iterable[str], *, entries: int) -> dict[str, bytes]:
    """The files of a ``CLIPTokenizer``: ``vocab.json``, ``merges.txt`` and two with its marks.

    Pairs are joined, the most frequent ones first, until each word is one token or the entries are used up.
    All bytes are entries, in a word and at its end, so that any text can be encoded.

    Args:
        captions: Texts to learn from.
        entries: Entries of the vocabulary, at most (but not fewer than the bytes and marks, 514).
    """
    tokenizers = library("tokenizers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(byte_level.alphabet())
    single = [*alphabet, *(byte + LAST for byte in alphabet)]
    room = max(0, entries - len(single) - 2)
    learner = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix=LAST))
    learner.normalizer = tokenizers.normalizers.Lowercase()
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Whitespace(),
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            byte_level,
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(single) + room,
        end_of_word_suffix=LAST,
        show_progress=False,
        initial_alphabet=alphabet,
    )
    learner.train_from_iterator(captions, trainer)
    pairs = json.loads(learner.to_str())["model"]["merges"][:room]
    names = list(dict.fromkeys([*single, *map("".join, pairs), START, END]))
    marks = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {**marks, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    merges = ["#version: 0.2", *(f"{first} {second}" for first, second in pairs), ""]
    return {
        "vocab.json": _json({name: i for i, name in enumerate(names)}),
        "merges.txt": "\n".join(merges).encode(),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(marks),
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=0) + "\n").encode()

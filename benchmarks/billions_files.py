"""Write LLaDA-8B or Dream-7B with random weights into a folder of the published layout, to try commands with.

    python benchmarks/billions_files.py llada FOLDER
    python benchmarks/billions_files.py dream FOLDER --size tiny

Shards in bf16 with their index (16 and 15 GB), ``config.json``, and a tokenizer of bytes with as many ids as
the network has.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from billions import PUBLISHED, drawn
from huggingface_hub import save_torch_state_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dimo_dllm.architecture import Architecture, Family

SHARD = 4 * 2**30
"""Bytes of a shard at most."""

NAMED = {
    "llada": ("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "dream": ("<|im_start|>", "<|im_end|>"),
}
"""Tokens of the template of a conversation; those of the mask and the end are the configuration's."""


def configuration(family: Family, a: Architecture) -> dict[str, Any]:
    """The published entries, at the sizes of this network."""
    llada = {"d_model": a.width, "n_heads": a.heads, "n_layers": a.layers, "mlp_hidden_size": a.mlp}
    dream = {
        "hidden_size": a.width,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "num_hidden_layers": a.layers,
        "intermediate_size": a.mlp,
        "pad_token_id": a.pad_id,
    }
    ids = {"vocab_size": a.columns, "mask_token_id": a.mask_id, "eos_token_id": a.eos_id}
    return {**PUBLISHED[family], **(llada if family == "llada" else dream), **ids}


def tokenizer(family: Family, a: Architecture) -> Tokenizer:
    """Bytes, the tokens that the family names, and as many others as the network has ids."""
    marks = {a.mask_id: "<|mask|>", a.eos_id: "<|endoftext|>"}
    free = (i for i in range(a.columns) if i not in marks)
    names = [*NAMED[family], *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: at for at, name in marks.items()}
    vocabulary |= {name: at for name, at in zip(names, free, strict=False)}
    vocabulary |= {f"word{at}": at for at in free}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([*marks.values(), *NAMED[family]])
    return made


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=PUBLISHED)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"{given.folder} is there already: name a new folder")
    given.folder.mkdir(parents=True)
    teacher = drawn(given.family, given.size)
    a = teacher.architecture
    (given.folder / "config.json").write_text(json.dumps(configuration(given.family, a), indent=1) + "\n")
    tokenizer(given.family, a).save(str(given.folder / "tokenizer.json"))
    torch.manual_seed(0)
    own = {a.published_name(name): p.detach() for name, p in teacher.network().named_parameters()}
    save_torch_state_dict(own, given.folder, max_shard_size=SHARD)


if __name__ == "__main__":
    main()

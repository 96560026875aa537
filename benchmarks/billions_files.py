"""Write LLaDA-8B or Dream-7B with random weights into a folder of the published layout, to try commands with.

    python benchmarks/billions_files.py llada FOLDER
    python benchmarks/billions_files.py dream FOLDER --size tiny

Shards in bf16 with their index (16 and 15 GB), ``config.json``, and a tokenizer of bytes with as many ids as
the network has.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from billions import PUBLISHED, drawn
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

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


def shards(family: Family, size: str) -> Iterator[dict[str, Tensor]]:
    """The weights by their published names: drawn where they are matrices, else 1, and 0 for biases."""
    teacher = drawn(family, size)
    a = teacher._published.architecture
    with torch.device("meta"):
        own = dict(teacher.skeleton().named_parameters())
    held: dict[str, Tensor] = {}
    for name, p in own.items():
        if held and sum(t.nbytes for t in held.values()) + 2 * p.numel() > SHARD:
            yield held
            held = {}
        made = torch.empty(p.shape, dtype=torch.bfloat16)
        made = made.normal_(std=0.02) if p.ndim > 1 else made.fill_(float(not name.endswith("bias")))
        held[a.published_name(name)] = made
    yield held


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
    a = drawn(given.family, given.size)._published.architecture
    (given.folder / "config.json").write_text(json.dumps(configuration(given.family, a), indent=1) + "\n")
    tokenizer(given.family, a).save(str(given.folder / "tokenizer.json"))
    torch.manual_seed(0)
    places, total = dict[str, str](), 0
    for number, shard in enumerate(shards(given.family, given.size), 1):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, given.folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
        total += sum(t.nbytes for t in shard.values())
        print(f"{name}: {len(shard)} tensors", flush=True)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (given.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""State that several processes write together: each its own part, as safetensors.

``torch.distributed.checkpoint`` divides and joins tensors, so that any number of processes reads what any
other wrote. Only its safetensors files are used: scalars are in our manifest, and its pickled metadata is
neither written nor read.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from dimo_core.engine.ranks import Ranks
from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_core.files.weights import sha256

ENDING = ".safetensors"


def write_shards(folder: Folder, files: Mapping[str, Mapping[str, Tensor]], ranks: Ranks) -> dict[str, str]:
    """Write tensors, of which every process has its part.

    Args:
        folder: An empty folder that all processes see.
        files: Tensors by file and name; the names are those of single files elsewhere.
        ranks: The processes.

    Returns:
        The SHA-256 of each file that was written.
    """
    every = {f"{file}/{name}": tensor for file, tensors in files.items() for name, tensor in tensors.items()}
    save(every, storage_writer=HuggingFaceStorageWriter(folder.url, save_distributed=True))
    own = f"shard-{ranks.rank + 1:05d}-"
    names = [name for name in folder.names() if name.startswith(own) and name.endswith(ENDING)]
    return dict(ranks.gathered((name, sha256(folder.read(name))) for name in names))


def read_shards(
    folder: Folder, digests: Mapping[str, str], like: Mapping[str, Mapping[str, Tensor]], ranks: Ranks
) -> dict[str, dict[str, Tensor]]:
    """What ``write_shards`` wrote, divided as the tensors of ``like`` are; those that it lacks are whole.

    Args:
        folder: Where they are.
        digests: The SHA-256 of each file.
        like: Tensors of the wanted kind.
        ranks: The processes.

    Raises:
        CheckpointError: when a file is missing or damaged.
    """
    mine = [name for place, name in enumerate(sorted(digests)) if place % ranks.size == ranks.rank]
    wrong = ranks.gathered(filter(None, (_fault(folder, name, digests[name]) for name in mine)))
    if wrong:
        raise CheckpointError(wrong[0])
    reader = HuggingFaceStorageReader(folder.url)
    every: dict[str, Tensor] = {}
    for key, facts in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(facts, TensorStorageMetadata)
        file, _, name = key.partition("/")
        wanted = like.get(file, {}).get(name)
        if wanted is not None and wanted.shape == facts.size:
            every[key] = torch.empty_like(wanted, dtype=facts.properties.dtype)
        else:
            every[key] = torch.empty(facts.size, dtype=facts.properties.dtype)
    with warnings.catch_warnings():  # that it is one process which reads
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(every, storage_reader=HuggingFaceStorageReader(folder.url), no_dist=ranks.mesh is None)
    files: dict[str, dict[str, Tensor]] = {}
    for key, tensor in every.items():
        file, _, name = key.partition("/")
        files.setdefault(file, {})[name] = tensor
    return files


def _fault(folder: Folder, name: str, digest: str) -> str:
    try:
        return "" if sha256(folder.read(name)) == digest else f"{folder.path(name)} is damaged"
    except FileNotFoundError:
        return f"no file {folder.path(name)}"

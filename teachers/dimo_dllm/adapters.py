"""The command ``dimo adapter``: what a generator of adapters learnt, as a folder that peft reads."""

import attrs

from dimo_core.command import Command
from dimo_dllm.adapter_card import Names


@attrs.frozen(kw_only=True)
class ExportAdapter(Command):
    """A trained generator of llada or dream as an adapter for transformers and peft.

    Attributes:
        path: A generator folder, or a run folder with one; its generator is ``lora``.
        out: Folder to write, a path or fsspec URL.
        names: Whose module names the adapter has: those of transformers' Llama and Qwen2, or those of the
            published code (which differ for llada).
    """

    path: str
    out: str
    names: Names = "transformers"

    def run(self) -> str:
        """Write the folder.

        Raises:
            UsageError: when the generator has no adapters, or the folder is not empty.
            CheckpointError: when there is no whole generator, or its teacher is another one or gone.
        """
        from dimo_dllm.adapter_files import write_adapter  # torch is not needed to show the options

        return f"adapter written: {write_adapter(self.path, self.out, self.names).url}"

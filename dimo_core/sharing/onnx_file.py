"""A traced program as ONNX, compared with onnxruntime before it is written."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from dimo_core.errors import MissingLibraryError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.sharing.copying import put
from dimo_core.sharing.tracing import Traced, quiet

NAME = "model.onnx"
DATA = f"{NAME}.data"
"""Where the tensors are of a model too large for one file."""

LARGE = 2**30
"""Bytes of tensors from which on they lie beside the model: a file of ONNX ends at 2 GiB."""

INSTALL = "Run: pip install 'dimo[onnx]'"


def check_libraries() -> None:
    """Look whether ONNX can be written here.

    Raises:
        MissingLibraryError: if not.
    """
    try:
        import onnx
        import onnxscript
    except Exception as error:  # missing, or it does not fit another library
        text = f"{type(error).__name__}: {error}"
        raise MissingLibraryError(f"--format onnx needs onnx and onnxscript ({text}). {INSTALL}") from error
    del onnx, onnxscript


def write_onnx(folder: Folder, traced: Traced) -> dict[str, Any]:
    """Write ``model.onnx``, with ``model.onnx.data`` where it is large.

    Args:
        folder: Where.
        traced: What.

    Returns:
        How it was compared: plain data.

    Raises:
        MissingLibraryError: without onnx and onnxscript.
        UsageError: when an operation has no counterpart in ONNX.
        NumericalError: when onnxruntime computes something else; nothing is written then.
    """
    check_libraries()
    tensors = [*traced.program.state_dict.values(), *traced.program.constants.values()]
    large = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)) > LARGE
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / NAME
        try:
            with quiet():
                model = torch.onnx.export(
                    traced.program,
                    dynamo=True,
                    verbose=False,
                    input_names=[*traced.inputs],
                    output_names=[*traced.outputs],
                    custom_translation_table={torch.ops.aten.sort.stable: _stable_sort()},
                )
            assert model is not None
            for node in model.model.graph.all_nodes():
                node.metadata_props.clear()  # traces, which name files of this machine
            model.save(path, external_data=large)
        except Exception as error:  # torch's own and onnxscript's, of many kinds
            cause = " ".join(str(error).rpartition("Exception summary")[2].strip("# \n").split())[:300]
            raise UsageError(f"this generator cannot be exported as onnx: {cause}") from error
        compared = _compared(path, traced)
        for file in sorted(Path(place).iterdir()):
            put(folder, file)
    return compared


def _compared(path: Path, traced: Traced) -> dict[str, Any]:
    """What onnxruntime makes of it."""
    try:
        import onnxruntime
    except ImportError:
        logger.warning("onnxruntime is not installed: the ONNX model is written without a comparison")
        return {"onnxruntime": None}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    used = {each.name for each in session.get_inputs()}
    given = {name: tensor.numpy() for name, tensor in traced.inputs.items() if name in used}
    found = [torch.from_numpy(output) for output in session.run(None, given)]
    return {"onnxruntime": onnxruntime.__version__, "pixels": traced.check(found, "the ONNX model")}


def _stable_sort() -> Callable[..., Any]:
    """ONNX sorts by TopK, which of equal values takes the one that comes first: it is stable."""
    from onnxscript import opset18 as op

    def sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    return sort

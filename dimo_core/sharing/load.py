"""Draw samples of an exported generator: needs torch and safetensors, and nothing of dimo.

    python load.py --conditions NAME ... --count 16 --seed 0 --out samples

or, from Python:

    from load import Model
    samples = Model(".").sample(["NAME"] * 4, seed=0)

Sample i of a seed is the same as that of `dimo sample`. What is read is data: JSON and safetensors, and of a
graph only operations of ATen are called. (Of `program.pt2` torch unpickles parts: open such a file only if
you trust where it comes from.) Licensed under the Apache License 2.0.
"""

import argparse
import hashlib
import json
import math
import struct
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FORMAT = "dimo-export/1"

ROWS, NUMBERS, SAMPLES = 64, 2**18, 64
"""Random numbers are drawn in blocks of so many rows and numbers at most, for 64 samples at a time."""

WORDS = {"approximate", "mode", "padding", "reduce", "rounding_mode", "interpolation", "indexing"}
"""Arguments of operations that may be text: no file name is among them."""

PLAIN = (torch.dtype, torch.layout, torch.memory_format)  # what an argument may name of torch


@dataclass(frozen=True)
class Samples:
    """What was drawn.

    Attributes:
        tokens: ``int64 [N, L]``.
        images: ``[N, C, H, W]`` in [0, 1], of generators of images.
        texts: One a sample, of generators of text whose pieces are in the folder.
    """

    tokens: Tensor
    images: Tensor | None = None
    texts: list[str] | None = None


class Model:
    """An exported generator.

    Args:
        folder: Where it is.
        device: Where it computes; a graph in `program.pt2` or `model.onnx` computes on the CPU.

    Attributes:
        facts: What ``export.json`` says.
        conditions: The tensors of the known conditions, by name.

    Raises:
        ValueError: when the folder holds no export, or a file of it is another than was written.
    """

    def __init__(self, folder: str | Path = ".", device: str = "cpu") -> None:
        self.folder, self.device = Path(folder), torch.device(device)
        self.facts: dict[str, Any] = json.loads(self._checked("export.json").read_text("utf-8"))
        if self.facts.get("format") != FORMAT:
            raise ValueError(f"{self.folder} holds no {FORMAT}, but {self.facts.get('format')}")
        self.conditions = load_file(self._checked("conditions.safetensors"))
        self.batch = int(self.facts["batch"])
        self._call = {"folder": self._graph, "torch-export": self._program, "onnx": self._onnx}[
            self.facts["kind"]
        ]()

    def sample(self, conditions: Sequence[str] = (), *, count: int | None = None, seed: int = 0) -> Samples:
        """Draw one sample for each condition.

        Args:
            conditions: Names of ``facts["conditions"]``, used in turn; all of them when empty.
            count: How many samples; as many as conditions when None.
            seed: Of all random numbers.

        Raises:
            ValueError: for an unknown condition.
        """
        rows = self.rows(conditions)
        total = len(rows) if count is None else count
        chosen = torch.tensor([rows[i % len(rows)] for i in range(total)])
        return self.run({name: tensor[chosen] for name, tensor in self.conditions.items()}, seed=seed)

    def rows(self, conditions: Sequence[str]) -> list[int]:
        """Their places among ``facts["conditions"]``; all when there are none. ``ValueError``: unknown."""
        known = self.facts["conditions"]
        if unknown := [name for name in conditions if name not in known]:
            raise ValueError(f"unknown condition {unknown[0]!r}; this folder has the tensors of: {known}")
        return [known.index(name) for name in conditions] or [*range(len(known))]

    def run(self, conditions: Mapping[str, Tensor], *, seed: int = 0) -> Samples:
        """The same for condition tensors ``[N, ...]`` by name, as ``export.json`` lists them."""
        names = [each["name"] for each in self.facts["inputs"]["conditions"]]
        count = len(conditions[names[0]])
        parts: list[list[Tensor]] = []
        for start in range(0, count, self.batch):
            ends = range(start, start + self.batch)
            places = [min(i, count - 1) for i in ends]  # the last batch is filled up
            given = [conditions[name][torch.tensor(places)] for name in names]
            noise = [self._noise(stream, places, seed) for stream in self.facts["inputs"]["noise"]]
            outputs = self._call([tensor.to(self.device) for tensor in (*given, *noise)])
            parts.append([output[: min(self.batch, count - start)].cpu() for output in outputs])
        tokens, *images = (torch.cat(each) for each in zip(*parts, strict=True))
        return Samples(tokens, images[0] if images else None, self._texts(tokens))

    def _texts(self, tokens: Tensor) -> list[str] | None:
        if not self.facts.get("pieces"):
            return None
        pieces = json.loads(self._checked("pieces.json").read_text("utf-8"))
        return ["".join(pieces[i] for i in row) for row in tokens.tolist()]

    def _noise(self, stream: Mapping[str, Any], places: Sequence[int], seed: int) -> Tensor:
        """The numbers of the samples at these places: those of row i % 64 of block i // 64."""
        shape, rows = tuple(stream["shape"]), []
        size = max(1, min(ROWS, NUMBERS // max(1, math.prod(shape))))
        for place in places:
            block, row = divmod(place, SAMPLES)
            key = (seed, block, stream["phase"], stream["stream"], row // size)
            rows.append(_drawn(key, stream["kind"], int(stream["high"]), (size, *shape))[row % size])
        return torch.stack(rows)

    def _checked(self, name: str) -> Path:
        """A file of the folder, if it is the one that was written."""
        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: this is no whole export")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if name != "export.json" and found != self.facts["sha256"].get(name):
            raise ValueError(f"{path} is damaged or another file (SHA-256 {found}): take another copy of it")
        return path

    def _graph(self) -> Callable[[list[Tensor]], list[Tensor]]:
        data = json.loads(self._checked("graph.json").read_text("utf-8"))
        files = {name: load_file(self._checked(name)) for name in self.facts["weights"]}
        held = {node: files[file][key].to(self.device) for node, (file, key) in data["tensors"].items()}
        return Graph(data, held, self.device).run

    def _program(self) -> Callable[[list[Tensor]], list[Tensor]]:
        module = torch.export.load(self._checked("program.pt2")).module()
        return lambda inputs: [*module(*inputs)]

    def _onnx(self) -> Callable[[list[Tensor]], list[Tensor]]:
        import onnxruntime

        if "model.onnx.data" in self.facts["sha256"]:
            self._checked("model.onnx.data")
        cpu = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(self._checked("model.onnx"), providers=cpu)
        names = [each["name"] for group in self.facts["inputs"].values() for each in group]
        used = {each.name for each in session.get_inputs()}

        def call(inputs: list[Tensor]) -> list[Tensor]:
            given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True) if name in used}
            return [torch.from_numpy(output) for output in session.run(None, given)]

        return call


class Graph:
    """Computes ``graph.json``, operation by operation.

    Args:
        data: The file.
        held: Weights and constants, by the names of nodes.
        device: Where to compute.

    Raises:
        ValueError: for an operation that is none of ATen, or takes text such as the name of a file.
    """

    def __init__(self, data: Mapping[str, Any], held: Mapping[str, Tensor], device: torch.device) -> None:
        self.data, self.held, self.device = data, held, device
        self.calls = [_operation(node[1]) for node in data["nodes"]]

    @torch.no_grad()
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Its outputs, of as many tensors as it has inputs, in order."""
        values: dict[str, Any] = {**self.held, **dict(zip(self.data["inputs"], inputs, strict=True))}
        for (name, _, args, kwargs, ends), call in zip(self.data["nodes"], self.calls, strict=True):
            values[name] = call(*self._value(args, values), **self._value(kwargs, values))
            for end in ends:
                del values[end]
        return [values[name] for name in self.data["outputs"]]

    def _value(self, plain: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(plain, list):
            return [self._value(each, values) for each in plain]
        if not isinstance(plain, dict):
            return plain
        match plain:
            case {"node": str(name)}:
                return values[name]
            case {"device": True}:
                return self.device
            case {"float": str(text)}:
                return float(text)
            case {"torch": str(name)} if isinstance(getattr(torch, name), PLAIN):
                return getattr(torch, name)
        return {key: self._value(each, values) for key, each in plain.items()}


def _operation(name: str) -> Callable[..., Any]:
    if name == "getitem":
        return lambda values, place: values[place]
    space, _, rest = name.partition(".")
    operation, _, overload = rest.partition(".")
    if space != "aten" or not operation.isidentifier() or not overload.isidentifier():
        raise ValueError(f"{name!r} is no operation of ATen")
    call: Any = getattr(getattr(torch.ops.aten, operation), overload)
    if words := {a.name for a in call._schema.arguments if "str" in str(a.type)} - WORDS:
        raise ValueError(f"{name!r} takes text ({', '.join(words)}), which no graph of an export has")
    return call  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _drawn(key: tuple[Any, ...], kind: str, high: int, shape: tuple[int, ...]) -> Tensor:
    """A block of random numbers, from a seed of its own."""
    text = "\x1f".join(map(repr, key)).encode()
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    if kind == "integers":
        return torch.empty(shape, dtype=torch.long).random_(0, high, generator=generator)
    block = torch.empty(shape, dtype=torch.float32)
    return block.normal_(generator=generator) if kind == "normal" else block.uniform_(generator=generator)


def png(image: Tensor) -> bytes:
    """A picture ``[C, H, W]`` in [0, 1], of 1 or 3 channels, as a PNG file."""
    channels, height, width = image.shape
    pixels = (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous()
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw samples into a folder: pictures, or lines of ``samples.txt``.

    What is wrong is told in one line, with exit code 2 for options, and 1 for a folder that is damaged.
    """
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description="Draw samples of a generator.")
    parser.add_argument("--conditions", nargs="*", default=[], help="names that export.json lists")
    parser.add_argument("--count", type=int, default=16, help="number of samples (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    parser.add_argument("--out", default="samples", help="folder to write (default: samples)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    options = parser.parse_args(argv)
    for name, least, most in (("count", 1, 10**9), ("seed", 0, 2**63 - 1)):
        if not least <= (given := getattr(options, name)) <= most:
            parser.error(f"--{name} is {given}; from {least} to {most} is allowed")
    code, about = 2, f"--device {options.device} cannot be used here: "
    try:
        torch.empty(1, device=options.device)
        code, about = 1, ""
        model = Model(Path(__file__).parent, options.device)
        code, about = 2, "--conditions: "
        model.rows(options.conditions)
        code, about = 1, ""
        samples = model.sample(options.conditions, count=options.count, seed=options.seed)
        code, about = 2, f"--out {options.out} cannot be written: "
        _write(Path(options.out), samples)
    except Exception as error:  # of torch, of files, and what damaged ones lead to
        text = next(iter(str(error).splitlines()), repr(error))
        parser.exit(code, f"{parser.prog}: error: {about}{text}\n")
    sys.stdout.write(f"{options.count} samples in {options.out}\n")


def _write(out: Path, samples: Samples) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(() if samples.images is None else samples.images):
        (out / f"{i:05d}.png").write_bytes(png(image))
    lines = samples.texts or [" ".join(map(str, row)) for row in samples.tokens.tolist()]
    if samples.images is None:
        (out / "samples.txt").write_text("".join(f"{line!r}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()

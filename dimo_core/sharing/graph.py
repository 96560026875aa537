"""A traced program as plain data, operations of ATen by name and tensors by name: nothing is pickled."""

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from dimo_core.errors import UsageError

FORMAT = "dimo-graph/1"


@attrs.frozen(kw_only=True, eq=False)
class Graph:
    """What ``load.py`` computes.

    Attributes:
        data: Plain data: ``inputs``, ``nodes`` and ``outputs``.
        held: Names of the tensors that are no inputs, by node.
        tensors: Weights and constants, by name.
    """

    data: Mapping[str, Any]
    held: Mapping[str, str]
    tensors: Mapping[str, Tensor]


def graph_of(program: ExportedProgram) -> Graph:
    """The graph of a program, without what nobody needs.

    Its nodes are lists, in order: name, operation, arguments, named arguments, and the names of values that
    are not needed after it.

    Raises:
        UsageError: when an operation is none of ATen.
    """
    program = program.run_decompositions({})
    graph = program.graph_module.graph
    graph.eliminate_dead_code()
    signature = program.graph_signature
    if any(spec.kind != OutputKind.USER_OUTPUT for spec in signature.output_specs):
        raise UsageError("this generator cannot be exported: a pass changes what it keeps between calls")
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    inputs, held, tensors = [], {}, {}
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node.name)
        elif node.users:
            assert spec.target is not None
            held[node.name] = spec.target
            tensors[spec.target] = _tensor(program, spec.target)
    called = [node for node in graph.nodes if node.op == "call_function" and not _asserts(node)]
    (returned,) = (node.args[0] for node in graph.nodes if node.op == "output")
    outputs = [node.name for node in returned]
    last = {source.name: node for node in called for source in node.all_input_nodes}
    nodes = []
    for node in called:
        names = [source.name for source in node.all_input_nodes]
        ends = [name for name in names if last[name] is node and name not in (*outputs, *held)]
        nodes.append([*_node(node), ends])
    data = {"format": FORMAT, "inputs": inputs, "nodes": nodes, "outputs": outputs}
    return Graph(data=data, held=held, tensors=tensors)


def _tensor(program: ExportedProgram, name: str) -> Tensor:
    found = program.constants.get(name)
    found = program.state_dict[name] if found is None else found
    assert isinstance(found, Tensor), "a graph holds tensors only"
    return found.detach()


def _asserts(node: Node) -> bool:
    """Whether a node only looks at what it is given, as torch puts them in."""
    return str(node.target).startswith("aten._assert")


def _node(node: Node) -> list[Any]:
    target = str(node.target)
    if getattr(node.target, "__name__", "") == "getitem":
        target = "getitem"
    elif not target.startswith("aten."):
        raise UsageError(f"this generator cannot be exported as a folder: {target} is no operation of ATen")
    return [node.name, target, [*map(_plain, node.args)], {k: _plain(v) for k, v in node.kwargs.items()}]


def _plain(value: Any) -> Any:
    match value:
        case Node():
            return {"node": value.name}
        case list() | tuple():
            return [*map(_plain, value)]
        case float() if not math.isfinite(value):
            return {"float": str(value)}
        case None | bool() | int() | float() | str():
            return value
        case torch.device():
            return {"device": True}
        case torch.dtype() | torch.layout() | torch.memory_format():
            return {"torch": str(value).removeprefix("torch.")}
    raise UsageError(
        f"this generator cannot be exported as a folder: its graph holds a {type(value).__name__}"
    )

"""YAML of others: safe, of bounded size, no key twice, and one line about what is wrong: ``parsed``."""

import math
import re
from itertools import chain
from typing import Any

import yaml

from dimo_core import limits


class YamlFault(yaml.YAMLError):
    """What is wrong with a YAML file, in one line."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses what YAML silently takes for something else: a key given twice, and numbers of other bases."""

    def construct_yaml_int(self, node: Any) -> Any:
        _check_length(node)
        number = super().construct_yaml_int(node)
        if re.fullmatch(r"[-+]?0[\d_]+|.*:.*", node.value):
            text = f"{node.value} would be read as {number}: write {number}, or quotes where it is text"
            raise yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)
        return number

    def construct_yaml_float(self, node: Any) -> Any:
        _check_length(node)
        return super().construct_yaml_float(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                twice = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        size = 0.0 if node is None else _size(node, {})
        if size == math.inf:
            raise YamlFault("an alias stands for what holds it, which has no end")
        if size > limits.WRITTEN_OUT:
            raise YamlFault(
                f"with its aliases written out it has more than {limits.WRITTEN_OUT:,} characters, "
                "which is the most; write out what is meant, without aliases"
            )
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _check_length(node: Any) -> None:
    """Refuse a number of absurd length: of base 60 it is read too slowly, of base 16 it cannot be shown."""
    if (count := len(node.value)) > limits.DIGITS:
        text = f"a number of {count:,} characters; {limits.DIGITS} are the most (quotes make it a text)"
        raise yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


def _check_depth(data: bytes) -> None:
    """Refuse what is nested deeply before it is composed, where libyaml calls itself: old ones crash then."""
    depth = 0
    for event in yaml.parse(data, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > limits.NESTED:
                raise YamlFault(f"its values are nested deeper than {limits.NESTED} lists and mappings")
        depth -= isinstance(event, yaml.CollectionEndEvent)


def parsed(data: bytes) -> Any:
    """The plain data of a YAML file.

    Args:
        data: Its bytes.

    Raises:
        YamlFault: when it is no YAML, or of too much.
    """
    if len(data) > limits.YAML:
        raise YamlFault(f"it has {len(data):,} bytes, and at most {limits.YAML:,} are read")
    try:
        _check_depth(data)
        return yaml.load(data, _Loader)
    except YamlFault:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise YamlFault(f"{place}{problem}") from error
    except ValueError as error:  # numbers and dates that are none
        raise YamlFault(str(error)) from error


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Characters and values, each as often as aliases repeat it; of what holds itself there is no end."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        text = isinstance(node, yaml.ScalarNode)
        known[id(node)] = 1 + (len(node.value) if text else sum(_size(each, known) for each in inner))
    return known[id(node)]

"""Where the weights are in what a foreign file holds, and what sets of them there are."""

from collections.abc import Mapping
from typing import Any

from dimo_core.files.inert import KNOWN, Inert

RESAVE = "Where it can be loaded: torch.save(model.state_dict(), 'weights.pth')."

WRAPPERS = (
    *("model_state_dict", "state_dict", "model", "module", "network", "net", "weights", "params"),
    *("ema_state_dict", "model_ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "g_ema"),
    *("params_ema", "ema_params", "ema_weights"),
)
"""Keys under which trainers put the weights, in the order in which they are looked for, averages last."""


def entries(node: Any) -> Mapping[Any, Any]:
    """Those of a dictionary, also of a class that was not loaded; none of anything else."""
    if isinstance(node, Inert):  # Python 2 gave an OrderedDict its pairs
        given = node.arguments[:1] if node.path == "collections.OrderedDict" else ()
        return dict(*given) | node.entries
    return node if isinstance(node, Mapping) else {}


def found_weights(tree: Any, key: str) -> tuple[str, Mapping[Any, Any], list[str]]:
    """Where the weights are, these, and what other sets there are beside them.

    Args:
        tree: Content of a file.
        key: The set that is asked for; empty for the first that there is.
    """
    place, found, beside = "", entries(tree), list[str]()
    for _ in range(4):  # a hostile tree may contain itself
        some = [one for one in (key, *WRAPPERS) if entries(found.get(one))]
        full = [one for one in some if _holds_weights(found[one])]
        if not some:
            break
        inner = key if key in some else (full or some)[0]
        key = "" if inner == key else key
        beside += [one for one in full if one != inner]
        place, found = f"{place}.{inner}".lstrip("."), entries(found[inner])
    if key:  # no such key: a part of the names, then
        start = f"{key}."
        named = {one: value for one, value in found.items() if isinstance(one, str) and one.startswith(start)}
        place, found = f"{place}.{key}".lstrip("."), {one.removeprefix(start): named[one] for one in named}
    return place, found, beside


def _holds_weights(node: Any, deep: int = 2) -> bool:
    found = entries(node)
    inner = (found.get(key) for key in WRAPPERS if deep)
    return any(kind(v).endswith("Tensor") for v in found.values()) or any(
        _holds_weights(n, deep - 1) for n in inner
    )


def key_name(key: Any) -> str:
    """A key, shortened: it may be anything."""
    short = isinstance(key, int) and key.bit_length() <= 64
    return repr(key)[:200] if short or isinstance(key, str) else f"a {kind(key)}"


def kind(value: Any) -> str:
    """What a value is, or stands for."""
    if isinstance(value, Inert):
        return KNOWN.get(value.path, f"an object of {value.path}")
    return type(value).__name__


def description(tree: Any) -> str:
    """What a file without weights holds instead, in a sentence or two."""
    if not isinstance(tree, Mapping) and not entries(tree):
        strange = isinstance(tree, Inert) and tree.path not in KNOWN
        return f"It {f'is {kind(tree)}, pickled whole' if strange else f'holds a {kind(tree)}'}. {RESAVE}"
    keys = listed([f"{key_name(key)} ({kind(value)})" for key, value in entries(tree).items()])
    return f"Top-level keys: {keys or 'none'}. Looked for tensors there and under {', '.join(WRAPPERS)}."


def listed(names: list[str]) -> str:
    """The first dozen, and how many more there are."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

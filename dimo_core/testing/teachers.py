"""Teachers: conditions, weights, network, capabilities and suggestions."""

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import attrs
import torch

from dimo_core import conditions
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.teacher import Capability, Teacher
from dimo_core.testing.backbones import check_backbone, check_learning, check_targets, check_told
from dimo_core.testing.expectations import (
    explained,
    explains,
    partly_masked,
    require,
    require_close,
    require_condition,
    require_refusal,
    require_tokens,
)
from dimo_core.testing.options import check_options
from dimo_core.testing.suggested import require_suggestions
from dimo_core.testing.untouched import untouched
from dimo_core.tokens import Tokens, TokenSpace


class Unheard:
    """A condition that nobody knows."""

    def __repr__(self) -> str:
        """As errors show it."""
        return "<a condition that nobody knows>"


@explains
def check_teacher(teacher: Teacher, raw: Sequence[Any]) -> None:
    """Everything that the core relies on in a teacher.

    Args:
        teacher: A small one; its network runs on the CPU.
        raw: At least two raw conditions that it takes, different ones where it takes several.
    """
    check_options(teacher)
    require(len(raw) > 1, f"check_teacher gets at least two raw conditions, and got {len(raw)}")
    able, known = teacher.capabilities, get_args(Capability)
    unknown = sorted(map(str, {*able} - {*known}))
    require(not unknown, f"capabilities are among {', '.join(known)}; {', '.join(unknown)} is none")
    space = teacher.tokens
    require(space == teacher.tokens, "tokens gives the same TokenSpace at every call")
    c = _check_conditions(teacher, raw)
    _check_weights(teacher)
    x = partly_masked(space, c, Draws(seed=0, phase="conformance", total=len(raw)))
    check_backbone(teacher.network(), x, c, space)
    check_learning(teacher.network(), x, c, space, tuple(teacher.frozen_parameters()))
    check_targets(teacher.network(), x, c, space)
    given, clean = space.given(c), space.codes_of(Draws(seed=1, total=len(raw)).uniform("x", space.length))
    x = given.put(clean) if given else clean
    with untouched(f"null_condition, decode, encode and preview of {type(teacher).__qualname__}", x, c):
        _check_capabilities(teacher, x, c)
    null = teacher.null_condition(c) if "guidance" in able else None
    check_told(teacher.network(), _alike(space, c, len(raw)), c, space, null)
    require_suggestions(teacher)


def _check_conditions(teacher: Teacher, raw: Sequence[Any]) -> Condition:
    """The raw conditions, encoded."""
    told = "encode_conditions takes each of these raw conditions"
    with explained(told), untouched("encode_conditions", raw):
        c = teacher.encode_conditions(raw)
    require_condition(c, len(raw), "encode_conditions")
    one, first = teacher.encode_conditions(raw[:1]), conditions.index(c, slice(0, 1))
    require_close(first, one, "a condition is encoded alike in any batch")
    for condition in raw:
        require(isinstance(teacher.describe(condition), str), "describe gives text")
    what = "encode_conditions([{!r}]) raises UsageError, as for all that it does not know"
    try:  # a teacher may take anything
        teacher.encode_conditions([Unheard()])
    except Exception:
        require_refusal(lambda: teacher.encode_conditions([Unheard()]), what.format(Unheard()))
    labels = len(teacher.conditioning.classes) if teacher.conditioning.kind == "label" else 0
    for label in (labels, -1) if labels else ():
        require_refusal(partial(teacher.encode_conditions, [label]), what.format(label))
    return c


def _alike(space: TokenSpace, c: Condition, count: int) -> Tokens:
    """Tokens that differ between samples by nothing but what conditions give."""
    if (given := space.given(c)) is not None:
        return given.put(torch.full((count, space.length), space.mask_id))
    return partly_masked(space, None, Draws(seed=0, phase="alike", total=1)).repeat(count, 1)


def _check_weights(teacher: Teacher) -> None:
    first, second = teacher.network(), teacher.network()
    own = dict(first.named_parameters())
    require(not any(module.training for module in first.modules()), "network() is in eval mode")
    require(all(p.device.type == "cpu" for p in own.values()), "network() is on the CPU")
    require_close(first.state_dict(), second.state_dict(), "network() gives the same weights every time")
    for name, p in second.named_parameters():
        require(p.data_ptr() != own[name].data_ptr(), f"network() gives copies, but {name} is shared")
    shared, other = teacher.network(share=True), teacher.network(share=True)
    require(shared is not other, "network(share=True) gives a new module tree every time")
    for name, p in other.named_parameters():
        require(p is dict(shared.named_parameters())[name], f"network(share=True) shares the tensor {name}")
    require_close(shared.state_dict(), first.state_dict(), "network(share=True) has the teacher's weights")
    for name in teacher.frozen_parameters():
        require(name in own, f"frozen_parameters names parameters of the network; {name!r} is none")
    with torch.device("meta"):
        skeleton = teacher.skeleton()
    shapes = {name: (t.shape, t.dtype) for name, t in first.state_dict().items()}
    bare = {name: (t.shape, t.dtype) for name, t in skeleton.state_dict().items()}
    require(bare == shapes, "skeleton() has the names, shapes and dtypes of network()")
    for name, t in [*skeleton.named_parameters(), *skeleton.named_buffers()]:
        what = "skeleton() under torch.device('meta') allocates nothing"
        require(t.is_meta, f"{what}, but {name} is on {t.device}")


def _check_capabilities(teacher: Teacher, x: Tokens, c: Condition) -> None:
    able = teacher.capabilities
    if "guidance" in able:
        what = "null_condition has the structure, shapes and dtypes of the conditions"
        with explained("the capability 'guidance' comes with null_condition(c)"):
            null = teacher.null_condition(c)
        for drop, chosen in ((True, null), (False, c)):
            require_close(conditions.where(torch.full((len(x),), drop), null, c), chosen, what)
    else:
        what = "without the capability 'guidance', null_condition refuses"
        require_refusal(lambda: teacher.null_condition(c), what)
    if "decode" in able:
        with explained("the capability 'decode' comes with decode(x, c)"):
            images = teacher.decode(x, c)
        require(images.ndim == 4 and len(images) == len(x), "decode gives images [B, C, H, W]")
        require(bool(((images >= 0) & (images <= 1)).all()), "decoded images are within [0, 1]")
        if "encode" in able:
            with explained("the capability 'encode' comes with encode(images, c)"):
                encoded = teacher.encode(images, c)
            require_tokens(encoded, len(x), teacher.tokens, "encoded images")
    else:
        require_refusal(lambda: teacher.decode(x, c), "without the capability 'decode', decode refuses")
    if "create" in able:
        has = teacher.pretraining_options is not None and attrs.has(teacher.pretraining_options)
        require(has, "the capability 'create' comes with an attrs class pretraining_options")
    preview = teacher.preview(x, c)
    shown = preview.lines if preview.images is None else preview.images
    require(shown is not None and len(shown) == len(x), "preview shows every sample, as images or as lines")

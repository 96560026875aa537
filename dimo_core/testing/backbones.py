"""Backbones: what the core relies on in a network."""

import torch

from dimo_core import conditions
from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.testing.expectations import (
    TOLERANCE,
    explained,
    explains,
    require,
    require_close,
    require_extra,
    require_logits,
    require_shape,
    variously_masked,
)
from dimo_core.testing.untouched import same, untouched
from dimo_core.tokens import Tokens, TokenSpace


@explains
def check_backbone(network: Backbone, x: Tokens, c: Condition, space: TokenSpace) -> None:
    """Logits, embeddings, rows and gradients; weights, inputs and random numbers stay as they are.

    ``check_teacher`` does this for a teacher's network.

    Args:
        network: In eval mode, on the CPU.
        x: Partly masked tokens, ``[B, L]`` with B from 2 up.
        c: Their encoded conditions.
        space: The token space.
    """
    with untouched(f"a forward pass of {type(network).__qualname__}", x, c, seeds=True):
        _check_passes(network, x, c, space)
    _check_ratios(network, c, space, len(x))


def _check_ratios(network: Backbone, c: Condition, space: TokenSpace, count: int) -> None:
    """From all masks to none in one batch, each sample with its own ratio."""
    x = variously_masked(space, c, Draws(seed=2, phase="conformance", total=count))
    ratio = torch.linspace(1, 0, count)
    z = network.logits(x, c, mask_ratio=ratio)
    require_logits(z, space)
    for row in range(count):
        alone = network.logits(
            x[row : row + 1], conditions.index(c, slice(row, row + 1)), mask_ratio=ratio[row : row + 1]
        )
        what = "a sample's logits hang on its own mask_ratio, from 1 to 0, and on no other's"
        require_close(alone, z[row : row + 1], what, TOLERANCE)


def _check_passes(network: Backbone, x: Tokens, c: Condition, space: TokenSpace) -> None:
    ratio = (x == space.mask_id).float().mean(1)
    flags = {name: p.requires_grad for name, p in network.named_parameters()}
    ids = f"0 .. {max(space.codes - 1, space.mask_id)}, the mask id being {space.mask_id}"
    with explained(f"the network takes tokens of L = tokens.length = {space.length} sites with ids {ids}"):
        z = network.logits(x, c, mask_ratio=ratio)
    require_shape(z, (*x.shape, space.columns), "logits, one column a code")
    kept = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float64}
    told = "logits are of the dtype of the weights, which is no float64; they"
    require(z.dtype in kept | {torch.float32}, f"{told} are {z.dtype}")
    require_logits(z, space)
    rows = torch.arange(0, x.numel(), 2)
    chosen = network.logits(x, c, mask_ratio=ratio, rows=rows)
    require_close(chosen, z.flatten(0, 1)[rows], "head(hidden, rows) gives these flat rows", TOLERANCE)
    if network.gathers:
        gathered = network.head(network(x, c, mask_ratio=ratio).flatten(0, 1)[rows], rows)
        require_close(gathered, chosen, "a head that gathers takes hidden states of the rows", TOLERANCE)
    e = network.embed(x)
    require(e.is_floating_point() and e.shape[:2] == x.shape, "embed gives floating point [B, L, E]")
    embedded = network.head(network(e, c, mask_ratio=ratio))
    require_close(embedded, z, "forward(embed(x)) is forward(x)", TOLERANCE)
    _check_probabilities(network, space)
    if network.takes_extra:
        require_extra(network, x, c, e)
    network.logits(x.flip(0), c, mask_ratio=ratio.flip(0))
    again = network.logits(x, c, mask_ratio=ratio)
    require_close(again, z, "a call leaves nothing behind for the next one", TOLERANCE)
    alone = network.logits(x[:1], conditions.index(c, slice(0, 1)), mask_ratio=ratio[:1])
    require_close(alone, z[:1], "a sample's logits do not depend on the others of its batch", TOLERANCE)
    leaf = e.detach().requires_grad_()
    torch.autograd.backward(_total(network.head(network(leaf, c, mask_ratio=ratio))))
    require(leaf.grad is not None and bool(leaf.grad.any()), "gradients flow from logits to embeddings")
    now = {name: p.requires_grad for name, p in network.named_parameters()}
    require(flags == now, "a forward pass never changes requires_grad")


def check_learning(
    network: Backbone, x: Tokens, c: Condition, space: TokenSpace, frozen: tuple[str, ...]
) -> None:
    """Every weight that is trained gets a gradient.

    Args:
        network: Whose ``requires_grad`` may be changed.
        x: Partly masked tokens.
        c: Their encoded conditions.
        space: The token space.
        frozen: Names of parameters that are not trained.
    """
    trained = {name: p for name, p in network.named_parameters() if name not in frozen}
    what = "the network has nn.Parameters that are not frozen: generator and auxiliary start as copies of it"
    require(bool(trained), f"{what}, and train them")
    for p in trained.values():
        p.requires_grad_()
    z = network.logits(x, c, mask_ratio=(x == space.mask_id).float().mean(1))
    require(z.requires_grad, "gradients flow from logits to the weights: nothing detaches them")
    for p in trained.values():
        p.grad = None
    torch.autograd.backward(_total(z))
    without = [name for name, p in trained.items() if p.grad is None]
    advice = "use it in the forward pass, or name it in frozen_parameters"
    require(not without, f"gradients flow from logits to every weight, and {without[:1]} gets none: {advice}")


def check_targets(network: Backbone, x: Tokens, c: Condition, space: TokenSpace) -> None:
    """``adapter_targets`` names linear modules that are called, and changes no logits.

    Args:
        network: Whose module tree may be changed.
        x: Partly masked tokens.
        c: Their encoded conditions.
        space: The token space.
    """
    ratio, called = (x == space.mask_id).float().mean(1), set[str]()
    before = network.logits(x, c, mask_ratio=ratio)
    targets = network.adapter_targets()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    after = network.logits(x, c, mask_ratio=ratio)
    require_close(after, before, "adapter_targets changes no logits", TOLERANCE)
    for target in targets:
        found = any(name == target or name.endswith(f".{target}") for name in called)
        require(found, f"adapter_targets names linear modules that are called; {target!r} is none")


def check_told(network: Backbone, x: Tokens, c: Condition, space: TokenSpace, null: Condition = None) -> None:
    """Conditions that are encoded differently give other logits, the null condition among them.

    Args:
        network: Whose weights may be changed: what starts at zero, as some layers do, is moved away from it.
        x: Partly masked tokens, alike in all samples but for what conditions give.
        c: Their encoded conditions.
        space: The token space.
        null: Their null conditions; None where there are none.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (p for p in network.parameters() if p.is_floating_point()):
            p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p))
        z = network.logits(x, c, mask_ratio=(x == space.mask_id).float().mean(1)).nan_to_num(neginf=0.0)
    for row in range(1, len(x)):
        if not same(conditions.index(c, slice(0, 1)), conditions.index(c, slice(row, row + 1))):
            moved = (z[row] - z[0]).abs().max() > 1e-6 * z.abs().max()
            require(bool(moved), "logits depend on the condition: the network ignores c")
    if null is not None:
        require(not same(c, null), "null_condition gives another condition: guidance would do nothing")
        unguided = network.logits(x, null, mask_ratio=(x == space.mask_id).float().mean(1))
        moved = (unguided.nan_to_num(neginf=0.0) - z).abs().max() > 1e-6 * z.abs().max()
        require(bool(moved), "logits of the null condition are others: guidance would do nothing")


def _total(z: torch.Tensor) -> torch.Tensor:
    """A number that hangs on every logit that is finite."""
    return z.masked_fill(z == -torch.inf, 0.0).square().sum()


def _check_probabilities(network: Backbone, space: TokenSpace) -> None:
    codes = torch.arange(space.length)[None] % space.codes
    one_hot = torch.nn.functional.one_hot(codes, space.codes).float().requires_grad_()
    try:
        e = network.embed(one_hot)
    except UsageError:
        return
    require_close(e, network.embed(codes), "embed of one-hot probabilities is embed of the tokens", TOLERANCE)
    grad = None
    if e.requires_grad:
        weights = torch.arange(1, e.numel() + 1).view_as(e).to(e).cos()
        (grad,) = torch.autograd.grad((e * weights).sum(), one_hot, allow_unused=True)
    what = "embed of probabilities is differentiable in them: their mean embedding, and no argmax"
    require(grad is not None and bool(grad.any()), what)

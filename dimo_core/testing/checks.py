"""Conformance checks for authors of plugins: call them from your own tests.

Each check raises ``AssertionError`` with a sentence on what the interface asks for and what was found::

    from dimo_core.testing import check_teacher

    def test_my_teacher_keeps_the_contract():
        check_teacher(MyTeacher(), ["a prompt", "another"])

Checks are small and run on the CPU; weights that a plugin needs must be at hand.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from dimo_core import conditions
from dimo_core.backbone import Backbone, inference
from dimo_core.conditions import Condition, Conditioning
from dimo_core.divergence import Divergence
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.guidance import Constant
from dimo_core.sampler import Sampled, Sampler
from dimo_core.sources import Conditions
from dimo_core.teacher import Teacher
from dimo_core.testing.expectations import (
    partly_masked,
    require,
    require_close,
    require_extra,
    require_logits,
    require_refusal,
    require_shape,
    require_suggestions,
    require_tokens,
)
from dimo_core.tokens import Tokens, TokenSpace

TOLERANCE = 1e-4
"""Largest difference of fp32 logits that count as equal, relative to the largest entry."""


def check_options(plugin: object) -> None:
    """A plugin is a frozen, keyword-only attrs class of documented options, which build an equal plugin."""
    cls = type(plugin)
    name = cls.__qualname__
    require(attrs.has(cls), f"{name} is a frozen attrs class whose fields are its options")
    fields = [field for field in attrs.fields(cls) if field.init]  # type: ignore[arg-type]
    for field in fields:
        require(field.kw_only, f"option {field.name} of {name} is keyword-only (attrs.frozen(kw_only=True))")
        where = f"option {field.name} in its 'Attributes:' section"
        require(f"{field.name}: " in (cls.__doc__ or ""), f"the docstring of {name} describes {where}")
    again = cls(**{field.alias: getattr(plugin, field.name) for field in fields})
    require(again == plugin, f"{name} built again from its own options equals the first")
    try:
        setattr(again, fields[0].name if fields else "anything", None)
    except (attrs.exceptions.FrozenInstanceError, AttributeError):
        return
    raise AssertionError(f"{name} is frozen (attrs.frozen): its options cannot be assigned")


def check_teacher(teacher: Teacher, raw: Sequence[Any]) -> None:
    """Everything that the core relies on in a teacher.

    Args:
        teacher: A small one; its network runs on the CPU.
        raw: At least two different raw conditions that it takes.
    """
    check_options(teacher)
    space, c = teacher.tokens, teacher.encode_conditions(raw)
    require(space == teacher.tokens, "tokens gives the same TokenSpace at every call")
    require(conditions.batch_size(c) == len(raw), "encode_conditions gives one row for each raw condition")
    one, first = teacher.encode_conditions(raw[:1]), conditions.index(c, slice(0, 1))
    require_close(first, one, "a condition is encoded alike in any batch")
    for condition in raw:
        require(isinstance(teacher.describe(condition), str), "describe gives text")
    _check_weights(teacher)
    x = partly_masked(space, c, Draws(seed=0, phase="conformance", total=len(raw)))
    _check_backbone(teacher.network(), x, c, space)
    _check_targets(teacher.network(), x, c, space)
    _check_capabilities(teacher, x, c)
    require_suggestions(teacher)


def check_divergence(divergence: Divergence, codes: int = 6) -> None:
    """Shapes, dtypes, zeros at p = q, and eq. 4 against autograd through ``value``.

    Args:
        divergence: With any options.
        codes: Number of codes V to try.
    """
    check_options(divergence)
    name = type(divergence).__qualname__
    generator = torch.Generator().manual_seed(0)
    z_p, z_q, z_w = torch.randn(3, 4, 5, codes, generator=generator, dtype=torch.float64).unbind()
    log_p, log_q, log_w = (z.log_softmax(-1) for z in (z_p, z_q, z_w))
    value, grad = divergence.value(log_p, log_q), divergence.grad(log_p, log_q)
    require_shape(value, (4, 5), f"value of {name}, one number a token")
    leaf = z_q.clone().requires_grad_()
    (expected,) = torch.autograd.grad(divergence.value(log_p, leaf.log_softmax(-1)).sum(), leaf)
    require_close(grad, expected, f"grad of {name} is the gradient of its value in z_psi (eq. 4)", 1e-6)
    require_close(grad.sum(-1), torch.zeros(4, 5).double(), f"rows of grad of {name} sum to 0", 1e-9)
    same = divergence.grad(log_p, log_p)
    require_close(divergence.value(log_p, log_p), torch.zeros(4, 5).double(), f"{name} is 0 at p = q", 1e-6)
    require_close(same, torch.zeros_like(same), f"the gradient of {name} is 0 at p = q", 1e-6)
    student = divergence.student_grad(log_p, log_q, log_w)
    require_shape(student, (4, 5, codes), f"student_grad of {name}")
    student = divergence.student_grad(log_p, log_q, log_q)
    require_close(student, grad, f"student_grad of {name} at w = q is grad", 1e-6)
    with torch.no_grad():
        quiet = divergence.grad(log_p.float(), log_q.float())
    require(quiet.dtype == torch.float32, f"{name} keeps the dtype of its inputs: fp32, not {quiet.dtype}")
    require_close(quiet.double(), grad, f"{name} in fp32 within no_grad agrees with fp64", TOLERANCE)
    alone = divergence.grad(log_p[1:2, :1], log_q[1:2, :1])
    require_close(alone, grad[1:2, :1], f"{name} treats tokens one by one", 1e-9)
    for key, number in divergence.diagnostics(log_p, log_q).items():
        require_shape(number, (), f"the diagnostic {key!r} of {name}, a scalar")


def check_conditions(source: Conditions, teacher: Teacher) -> None:
    """A pure function of position and seed, for conditions that the teacher takes.

    Args:
        source: The source.
        teacher: One that takes its conditions.
    """
    check_options(source)
    name = type(source).__qualname__
    stream = source.open(teacher.conditioning, seed=3)
    whole = stream.read(0, 40)
    require(len(whole) == 40, f"{name}.read gives as many conditions as asked for: 40, not {len(whole)}")
    part = stream.read(17, 9)
    require(part == whole[17:26], f"{name}.read depends on the position alone, not on earlier reads")
    again = source.open(teacher.conditioning, seed=3)
    require(again.read(0, 40) == whole, f"{name} opened again with the same seed gives the same conditions")
    far = again.read(10**7, 5)
    require(len(far) == 5, f"{name} is endless: position 10,000,000 can be read")
    teacher.encode_conditions([*whole, *far])
    for count in (1, 7):
        even = source.balanced(teacher.conditioning, count)
        require(len(even) == count, f"{name}.balanced gives {count} conditions, not {len(even)}")
        require(even == source.balanced(teacher.conditioning, count), f"{name}.balanced is a fixed list")
        teacher.encode_conditions(even)
        text = [teacher.describe(condition) for condition in even]
        read = source.parse(teacher.conditioning, text)
        require(read == even, f"{name}.parse reads {text!r} as {even!r}, not {read!r}")
    foreign, what = Conditioning(kind="a kind that nobody has"), "conditions of a kind that it does not give"
    require_refusal(lambda: source.open(foreign, seed=0), f"{name}.open refuses {what}")


def check_sampler(sampler: Sampler, teacher: Teacher, raw: Sequence[Any]) -> None:
    """Complete tokens, repeatable by their draws alone, and honest pass counts, at few and many steps.

    Args:
        sampler: With any options.
        teacher: A small one.
        raw: At least two raw conditions that it takes.
    """
    check_options(sampler)
    c, network, space = teacher.encode_conditions(raw), teacher.network().eval(), teacher.tokens
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))

    def run(draws: Draws, c: Condition, steps: int, scale: float = 1.0) -> Sampled:
        seen.clear()
        how: dict[str, Any] = {"steps": steps, "guidance": Constant(scale=scale), "draws": draws}
        with inference(network):
            return sampler.sample(teacher, network, c, **how, keep_trajectory=True)

    draws = Draws(seed=1, phase="check", total=len(raw))
    for steps in (1, 2, space.length, space.length + 3):
        for scale in (1.0, 2.0) if "guidance" in teacher.capabilities else (1.0,):
            sampled = run(draws, c, steps, scale)
            require_tokens(sampled.tokens, len(raw), space, f"samples in {steps} steps", c)
            counted, taken = sum(seen) / len(raw), len(sampled.trajectory)
            told = f"passes is {counted:g}, what {steps} steps took, not {sampled.passes}"
            require(sampled.passes == counted or (space.gives and sampled.passes > counted), told)
            each = sampled.each()
            require(
                each.shape == (len(raw),) and int(each.max()) <= sampled.passes,
                "calls has a number by sample",
            )
            require(taken <= steps, f"at most {steps} steps are taken when {steps} are asked for")
            if taken:
                require_close(sampled.trajectory[-1], sampled.tokens, "the trajectory ends with the samples")
            again = run(draws, c, steps, scale)
            require_close(again.tokens, sampled.tokens, "the same draws give the same samples")
        part = run(draws.slice(1, 1), conditions.index(c, slice(1, 2)), steps).tokens
        whole = run(draws, c, steps).tokens
        require_close(part, whole[1:2], "a sample does not depend on the others of its batch")


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


def _check_backbone(network: Backbone, x: Tokens, c: Condition, space: TokenSpace) -> None:
    ratio = (x == space.mask_id).float().mean(1)
    flags = {name: p.requires_grad for name, p in network.named_parameters()}
    z = network.logits(x, c, mask_ratio=ratio)
    require_shape(z, (*x.shape, space.columns), "logits, one column a code")
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
    torch.autograd.backward(network.head(network(leaf, c, mask_ratio=ratio)).square().sum())
    require(leaf.grad is not None and bool(leaf.grad.any()), "gradients flow from logits to embeddings")
    reached = any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    require(reached or not any(flags.values()), "gradients flow from logits to the weights")
    now = {name: p.requires_grad for name, p in network.named_parameters()}
    require(flags == now, "a forward pass never changes requires_grad")


def _check_targets(network: Backbone, x: Tokens, c: Condition, space: TokenSpace) -> None:
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


def _check_probabilities(network: Backbone, space: TokenSpace) -> None:
    codes = torch.arange(space.length)[None] % space.codes
    one_hot = torch.nn.functional.one_hot(codes, space.codes).float().requires_grad_()
    try:
        e = network.embed(one_hot)
    except UsageError:
        return
    require_close(e, network.embed(codes), "embed of one-hot probabilities is embed of the tokens", TOLERANCE)
    require(e.requires_grad, "embed of probabilities is differentiable")


def _check_capabilities(teacher: Teacher, x: Tokens, c: Condition) -> None:
    able, codes = teacher.capabilities, x.clamp(0, teacher.tokens.codes - 1)
    if "guidance" in able:
        null = teacher.null_condition(c)
        what = "null_condition has the structure, shapes and dtypes of the conditions"
        for drop, chosen in ((True, null), (False, c)):
            require_close(conditions.where(torch.full((len(x),), drop), null, c), chosen, what)
    else:
        what = "without the capability 'guidance', null_condition refuses"
        require_refusal(lambda: teacher.null_condition(c), what)
    if "decode" in able:
        images = teacher.decode(codes, c)
        require(images.ndim == 4 and len(images) == len(x), "decode gives images [B, C, H, W]")
        require(bool(((images >= 0) & (images <= 1)).all()), "decoded images are within [0, 1]")
        if "encode" in able:
            require_tokens(teacher.encode(images, c), len(x), teacher.tokens, "encoded images")
    else:
        require_refusal(lambda: teacher.decode(codes, c), "without the capability 'decode', decode refuses")
    preview = teacher.preview(codes, c)
    shown = preview.lines if preview.images is None else preview.images
    require(shown is not None and len(shown) == len(x), "preview shows every sample, as images or as lines")

"""Prompts and padding are never masked, drawn, counted or scored, and forbidden codes are never drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows, at_rows
from dimo_core.conditions import Condition, Conditioning
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.guidance import Constant
from dimo_core.method import process
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.few_step import FewStep
from dimo_core.method.losses import denoising_loss, entropy, grad_z, logit_scale, soft_loss
from dimo_core.method.masked_modelling import MaskedModelling
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients
from dimo_core.registry import Registry
from dimo_core.sampler import Sampler
from dimo_core.suggestions import EvaluationPlan, Recipe
from dimo_core.teacher import Teacher
from dimo_core.testing import check_sampler, check_teacher
from dimo_core.tokens import Given, Tokens, TokenSpace
from dimo_di4c.generator import Mixture
from dimo_distillers.imdm import Imdm
from dimo_divergences import RKL, Jeffrey
from dimo_gym.partial import sequences
from dimo_gym.teacher import GymTeacher

L, V, MASK, NEVER = 6, 7, 3, 5
PROMPTS = ((0, 1, 2), (6, 6, 6), (0, None, 2))
"""Raw conditions of unequal sizes are longer ones; None is a site that is not given."""


@attrs.frozen(kw_only=True)
class PromptSpace(TokenSpace):
    """The first sites may be given."""

    def given(self, c: Condition) -> Given:
        return Given(tokens=c["tokens"], valid=c["valid"])


def encoded(raw: Sequence[Sequence[int | None]], length: int) -> dict[str, Tensor]:
    """Prompts from the left; None and what is behind them is the model's."""
    tokens, valid = torch.zeros(len(raw), length, dtype=torch.long), torch.ones(len(raw), length).bool()
    if wrong := [prompt for prompt in raw if not isinstance(prompt, tuple | list)]:
        raise UsageError(f"a prompt is a list of tokens, not {wrong[0]!r}")
    for row, prompt in enumerate(raw):
        for site, token in enumerate(prompt):
            if token is not None:
                tokens[row, site], valid[row, site] = token, False
    return {"tokens": tokens, "valid": valid}


class PromptBackbone(Backbone):
    """Sites see one another through one layer; what is given is read from the condition."""

    gathers = True
    takes_extra = True

    def __init__(self, space: TokenSpace, width: int = 6) -> None:
        super().__init__()
        self.space = space
        self.emb = nn.Embedding(space.codes + 1, width)
        self.attn_in, self.attn_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.place = nn.Parameter(torch.randn(space.length, width))
        self.out = nn.Linear(width, space.codes)

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        return x @ self.emb.weight[: x.shape[-1]] if x.is_floating_point() else self.emb(x)

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L E"],
        c: Condition,
        *,
        mask_ratio: Float[Tensor, " B"],
        extra: Float[Tensor, "B N E"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        e = x if x.is_floating_point() else self.embed(x)
        e = torch.where(c["valid"][..., None], e, self.embed(c["tokens"])) + self.place
        seen = e if extra is None else torch.cat([e, extra], 1)
        q, k, v = self.attn_in(seen).chunk(3, -1)
        hidden: Tensor = (
            e + self.attn_out(nn.functional.scaled_dot_product_attention(q, k, v))[:, : e.shape[1]]
        )
        return hidden

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        return self.space.restrict(self.out(at_rows(hidden, rows)), rows)


@attrs.frozen(kw_only=True)
class PromptTeacher(Teacher):
    """Random weights; six sites, seven codes, of which one is the mask and one is never drawn."""

    capabilities = frozenset({"guidance"})

    @property
    def tokens(self) -> TokenSpace:
        return PromptSpace(length=L, codes=V, mask_id=MASK, forbidden=(NEVER,), modality="text")

    @property
    def conditioning(self) -> Conditioning:
        return Conditioning(kind="prompt")

    def network(self, *, share: bool = False) -> Backbone:
        if share:
            made, kept = self.network(), _SHARED.setdefault("network", self.network())
            for name, p in kept.named_parameters():
                owner, _, own = name.rpartition(".")
                setattr(made.get_submodule(owner), own, p)
            return made
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.skeleton().eval()

    def skeleton(self) -> Backbone:
        return PromptBackbone(self.tokens)

    def encode_conditions(self, raw: Sequence[Any]) -> Condition:
        return encoded(raw, L)

    def null_condition(self, c: Condition) -> Condition:
        return {**c, "tokens": torch.full_like(c["tokens"], MASK)}

    def recipes(self) -> Mapping[str, Recipe]:
        return {"fast": {}}

    def evaluation(self) -> EvaluationPlan | None:
        return None


_SHARED: dict[str, Backbone] = {}


class OfClass(Backbone):
    """The gym's network, of the class that a condition holds."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        return self.network.embed(x)

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Condition, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        hidden: Tensor = self.network(x, c["class"], mask_ratio=mask_ratio)
        return hidden

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        return self.network.head(hidden, rows)


@attrs.frozen(kw_only=True)
class PromptGym(GymTeacher):
    """An exactly known joint, and prompts: what is drawn has the conditional law of the rest."""

    @property
    def tokens(self) -> TokenSpace:
        return PromptSpace(**attrs.asdict(super().tokens))

    def network(self, *, share: bool = False) -> Backbone:
        return OfClass(super().network(share=share)).eval()

    def encode_conditions(self, raw: Sequence[Any]) -> Condition:
        label, prompts = zip(*raw, strict=True)
        return {"class": torch.tensor(label), **encoded(prompts, self.tokens.length)}


TEACHER = PromptTeacher()
UNEQUAL = ((0, 1, 2), (), (4, None, 2, 0), (6,), (1, 1, 1, 1, 1, 1), (2, 2))
C = TEACHER.encode_conditions(UNEQUAL)
B = len(UNEQUAL)
DRAWS = Draws(seed=4, step=2, phase="p", total=B)
SAMPLERS = sorted(Registry.discover().names("sampler"))


def of(kind: str, name: str, **options: Any) -> Any:
    return Registry.discover().load(kind, name)(**options)


def whole(x: Tensor, c: Any = C) -> None:
    """What is given is there, and nothing else is a mask or forbidden."""
    assert torch.equal(x[~c["valid"]], c["tokens"][~c["valid"]])
    drawn = x[c["valid"]]
    assert ((drawn != MASK) & (drawn != NEVER) & (drawn >= 0) & (drawn < V)).all()


@pytest.mark.parametrize("raw", [PROMPTS, UNEQUAL])
def test_the_conformance_kit_takes_a_teacher_with_prompts(raw: Any) -> None:
    check_teacher(TEACHER, raw)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(s, marks=pytest.mark.slow) if s in ("tau-leaping", "theta-trapezoidal") else s
        for s in SAMPLERS
    ],
)
def test_every_sampler_leaves_what_is_given(name: str) -> None:
    check_sampler(of("sampler", name), TEACHER, UNEQUAL[:4])


@pytest.mark.parametrize("name", SAMPLERS)
def test_passes_are_those_of_the_sites_that_are_not_given(name: str) -> None:
    sampler: Sampler = of("sampler", name)
    c, network = TEACHER.encode_conditions([(0, 1, 2, 4)] * 3), TEACHER.network()
    draws = Draws(seed=0, total=3)
    found = sampler.sample(TEACHER, network, c, steps=L, guidance=Constant(), draws=draws)
    twice = 2 if name in ("theta-trapezoidal", "trapezoidal") else 1
    staged = {"ancestral", "mdlm", "tau-leaping", "theta-trapezoidal", "trapezoidal"}
    assert found.passes <= (twice * L if name in staged else 2)
    whole(found.tokens, c)


@pytest.mark.parametrize("name", ["maskgit", "random-order", "ancestral", "halton"])
def test_in_as_many_steps_as_sites_the_law_is_the_exact_conditional(name: str) -> None:
    """Of an exactly known joint, given some of its sites, by enumeration."""
    teacher, count = PromptGym(joint="markov"), 6000
    prompt = (1, None, None, 0)
    c = teacher.encode_conditions([(0, prompt)] * count)
    options = {"order": "random"} if name == "maskgit" else {}
    how = of("sampler", name, **options)
    steps = 64 if name == "ancestral" else teacher.tokens.length
    draws = Draws(seed=1, total=count)
    x = how.sample(teacher, teacher.network(), c, steps=steps, guidance=Constant(), draws=draws).tokens
    every, p = sequences(teacher.tokens.length, teacher.tokens.codes), teacher.believed()[0]
    p = torch.where((every[:, 0] == 1) & (every[:, 3] == 0), p, 0.0)
    p /= p.sum()
    place = (x * teacher.tokens.codes ** torch.arange(x.shape[1]).flip(0)).sum(1)
    q = place.bincount(minlength=len(p)) / count
    assert 0.5 * (p - q).abs().sum() < 0.06
    assert (q[p == 0] == 0).all()


GENERATORS = [
    OneStep(r_init=0.5),
    FewStep(steps=3),
    FewStep(steps=2, order="confidence"),
    FewStep(steps=2, order="halton"),
    Imdm(steps=3, noise=3, resets=True),
    Mixture(steps=1),
]


@pytest.mark.parametrize("options", GENERATORS, ids=lambda o: type(o).__name__)
def test_generators_keep_what_is_given_whatever_is_beside_it(options: Any) -> None:
    made = options.build(TEACHER).eval()
    x = made.sample(C, DRAWS)
    whole(x)
    part = made.sample({name: t[2:4] for name, t in C.items()}, DRAWS.slice(2, 2))
    assert torch.equal(part, x[2:4])
    for step in range(6):
        rollout = made.rollout(C, attrs.evolve(DRAWS, step=step))
        assert rollout.decided is not None
        assert rollout.decided[~C["valid"]].all()
        rows = torch.arange(B * L)
        whole(rollout.x_theta(made.head(rollout.hidden).flatten(0, 1), rows).view(B, L))


def test_x_init_masks_its_share_of_the_sites_that_are_not_given() -> None:
    given = TEACHER.tokens.given(C)
    assert given is not None
    for r_init in (0.0, 0.5, 1.0):
        x = process.initial_tokens(TEACHER.tokens, r_init, DRAWS, given)
        masked = (x == MASK) & given.valid
        assert torch.equal(masked.sum(1), (r_init * given.valid.sum(1).double()).round().long())
        assert not (x[given.valid] == NEVER).any()
        assert torch.equal(x[~given.valid], given.tokens[~given.valid])


@pytest.mark.parametrize("masking", ["exact", "bernoulli"])
def test_only_sites_that_are_not_given_are_masked_and_counted(masking: Any) -> None:
    remask = process.draw_remask(L, "arccos", masking, DRAWS, valid=C["valid"])
    assert not (remask.masked & ~C["valid"]).any()
    assert remask.total == int(remask.counts.sum())
    assert (remask.counts[C["valid"].any(1)] >= 1).all()
    parts = [
        process.draw_remask(L, "arccos", masking, DRAWS.slice(i, 2), valid=C["valid"]) for i in (0, 2, 4)
    ]
    assert torch.equal(torch.cat([part.masked for part in parts]), remask.masked)
    assert {remask.total} == {part.total for part in parts}
    if masking == "exact":
        expected = process.masked_count(remask.ratio, C["valid"].sum(1))
        assert torch.equal(remask.counts, expected)


def batch(rows: slice = slice(None)) -> Batch:
    x_0 = torch.tensor([0, 1, 2, 4, 6])[torch.randint(5, (B, L), generator=torch.Generator().manual_seed(1))]
    x_0 = torch.where(C["valid"], x_0, C["tokens"])
    c = {name: t[rows] for name, t in C.items()}
    return Batch(conditions=c, tokens=x_0[rows], rows=torch.arange(B)[rows], valid=C["valid"])


OBJECTIVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "dimo": (Dimo(), {}),
    "dimo-fresh": (Dimo(rollout="fresh", masking="bernoulli", auxiliary_weight="elbo"), {}),
    "dimo-few": (Dimo(weight="dmd"), {"generator": FewStep(steps=2)}),
    "smoothed": (Dimo(), {"auxiliary": Denoiser(label_smoothing=0.1)}),
    "idlm": (
        of("objective", "idlm"),
        {"divergence": RKL(), "auxiliary": Denoiser(soft=1.0, teacher_weight=1.0)},
    ),
    "d-mmd": (of("objective", "idlm", corruption="posterior"), {"divergence": RKL()}),
    "sdtt": (of("objective", "sdtt"), {"divergence": RKL()}),
    "pairs": (of("objective", "pairs"), {}),
    "masked-modelling": (MaskedModelling(label_smoothing=0.1), {}),
    "masked-modelling-all": (MaskedModelling(positions="all"), {}),
    "di4c": (of("objective", "di4c", latents=3), {"generator": Mixture(steps=1)}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_learns_at_sites_that_are_given_and_micro_batches_add_up(name: str) -> None:
    options, changed = OBJECTIVES[name]

    def gradients(parts: list[slice]) -> tuple[list[Tensor], dict[str, Tensor]]:
        ingredients = Ingredients(
            teacher=TEACHER,
            **{
                "generator": OneStep(),
                "auxiliary": Denoiser(),
                "divergence": Jeffrey(beta=0.2),
                "guidance": Constant(scale=2.0),
                **changed,
            },
        )
        made, sums = options.build(ingredients), dict[str, Tensor]()
        modules = [part.module for part in made.parts().values()]
        for k, module in enumerate(modules):
            module.double()
            for p in module.parameters():
                p.data += 0.1 * torch.sin(torch.arange(p.numel()).double() + k).view_as(p)
        for module in made.frozen().values():
            module.double()
        for phase in made.phases():
            for rows in parts:
                draws = attrs.evolve(DRAWS, phase=phase.name).slice(*rows.indices(B)[:2])
                draws = attrs.evolve(draws, count=rows.stop - rows.start)
                for key, value in phase.accumulate(batch(rows), draws, watch=True).items():
                    sums[key] = sums.get(key, torch.zeros(())) + value
        grads = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
        return [g.clone() for g in grads], sums

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        one, logs = gradients([slice(0, B)])
        many, sums = gradients([slice(0, 1), slice(1, 4), slice(4, B)])
    finally:
        torch.set_default_dtype(default)
        for p in TEACHER.network(share=True).parameters():
            p.data = p.data.float()
    assert all(g.isfinite().all() for g in one)
    assert any(g.any() for g in one)
    for a, b in zip(one, many, strict=True):
        assert torch.allclose(a, b, atol=1e-12, rtol=1e-9)
    for key, value in logs.items():
        assert value.isfinite(), key
        assert torch.allclose(value, sums[key], atol=1e-12, rtol=1e-9), key


@pytest.mark.parametrize("name", sorted(Registry.discover().names("divergence")))
def test_forbidden_codes_are_as_if_they_were_no_columns(name: str) -> None:
    divergence = of("divergence", name)
    z = torch.randn(3, 5, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = torch.tensor([0, 1, 2, 4, 6])
    barred = TokenSpace(length=5, codes=V, mask_id=MASK, forbidden=(NEVER,)).restrict(z)
    for jacobian in ("auxiliary", "student"):
        found = grad_z(*barred, divergence=divergence, jacobian=jacobian)
        expected = grad_z(*z[..., there], divergence=divergence, jacobian=jacobian)
        assert torch.allclose(found[..., there], expected, atol=1e-12)
        assert not found[..., [MASK, NEVER]].any()
    log_p, log_q = barred[:2].log_softmax(-1)
    few_p, few_q = z[:2, :, there].log_softmax(-1)
    assert torch.allclose(divergence.value(log_p, log_q), divergence.value(few_p, few_q), atol=1e-12)


def test_losses_leave_forbidden_codes_out() -> None:
    z = torch.randn(2, 5, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there, x = torch.tensor([0, 1, 2, 4, 6]), torch.tensor([0, 2, 4, 6, 1])
    few_x = torch.tensor([0, 2, 3, 4, 1])
    barred = TokenSpace(length=5, codes=V, mask_id=MASK, forbidden=(NEVER,)).restrict(z)
    few, w = z[..., there], torch.rand(5).double()
    for smoothing in (0.0, 0.1):
        for each in (None, w):
            found = denoising_loss(barred[0], x, label_smoothing=smoothing, w=each, restricted=True)
            expected = denoising_loss(few[0], few_x, label_smoothing=smoothing, w=each)
            assert torch.allclose(found, expected)
    leaf = barred[0].clone().requires_grad_()
    loss = soft_loss(leaf, barred[1])
    (grad,) = torch.autograd.grad(loss, leaf)
    assert torch.allclose(loss, soft_loss(few[0], few[1]))
    assert grad.isfinite().all()
    assert torch.allclose(entropy(barred[0].log_softmax(-1)), entropy(few[0].log_softmax(-1)))
    assert torch.allclose(logit_scale(barred[0]), logit_scale(few[0]))


def test_a_group_of_codes_lies_at_one_place_with_codebooks_of_its_own() -> None:
    space = TokenSpace(length=6, codes=8, mask_id=8, group=3, codebooks=(8, 2, 4), grid=(1, 2))
    assert space.restricted
    assert [8, 2, 4] == space.allowed.sum(1).tolist()
    z = space.restrict(torch.zeros(2, 6, 8))
    assert [8, 2, 4, 8, 2, 4] == z.isfinite().sum(-1)[0].tolist()
    rows = torch.tensor([1, 8, 11])
    assert torch.equal(space.restrict(torch.zeros(3, 8), rows), z.flatten(0, 1)[rows])
    x = process.initial_tokens(space, 0.0, Draws(seed=0, total=400))
    assert [7, 1, 3, 7, 1, 3] == x.amax(0).tolist()
    assert not x.amin(0).any()
    assert torch.equal(space.checked(x), x)
    with pytest.raises(UsageError, match="token 5 was given at site 1 of sample 0"):
        space.checked(torch.tensor([[7, 5, 3, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"group": 4}, "length 6 is no multiple of group 4"),
        ({"grid": (2, 2)}, "grid .2, 2. has 4 sites"),
        ({"codebooks": (8,), "group": 2}, "must be 2"),
        ({"codebooks": (9,)}, "from 1 to 8 codes, not 9"),
        ({"forbidden": (8,)}, "forbidden id 8 is none of the codes 0 .. 7"),
        ({"forbidden": tuple(range(8))}, "nothing can be drawn"),
        ({"forbidden": (0,), "codebooks": (1,)}, "nothing can be drawn"),
        ({"scores_mask": True, "mask_id": 3}, "must be V = 8, got 3"),
    ],
)
def test_spaces_that_cannot_be_are_refused(options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TokenSpace(**{"length": 6, "codes": 8, "mask_id": 8, **options})


def test_what_counts_is_the_models_own_before_the_end() -> None:
    space = PromptSpace(length=L, codes=V, mask_id=MASK, forbidden=(NEVER,))
    c = encoded([(4,), (4, 4)], L)
    x = torch.tensor([[4, 0, 1, 4, 4, 2], [4, 4, 0, 1, 2, 0]])
    assert torch.equal(c["valid"], space.counted(x, c))
    ends = attrs.evolve(space, end=4)
    expected = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
    assert torch.equal(expected, ends.counted(x, c))
    plain = TokenSpace(length=L, codes=V, mask_id=V)
    assert plain.counted(x, None) is None
    assert torch.equal(
        torch.tensor([[0] * 6, [1, 1, 0, 0, 0, 0]]).bool(),
        attrs.evolve(plain, end=4).counted(torch.stack([x[0], torch.tensor([0, 1, 4, 0, 1, 1])]), None),
    )


@pytest.mark.parametrize("end", [NEVER, MASK, V, -1])
def test_an_end_that_is_never_drawn_is_refused(end: int) -> None:
    with pytest.raises(ValueError, match=f"end {end} is none of the codes"):
        PromptSpace(length=L, codes=V, mask_id=MASK, forbidden=(NEVER,), end=end)

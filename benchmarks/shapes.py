"""The networks of the shipped teachers with random weights, at sizes for a laptop, a GPU and a test.

    from shapes import SHAPES, shaped

A teacher here has a network and conditions, and neither files nor pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch

from dimo_core import conditions
from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition, Conditioning
from dimo_core.guidance import Constant
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo, DimoObjective
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients, Optimisation
from dimo_core.suggestions import Recipe
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace
from dimo_divergences import Jeffrey
from dimo_maskgit.recipes import RECIPES as MASKGIT
from dimo_maskgit.transformer import PUBLISHED, Architecture, MaskTransformer
from dimo_meissonic.recipes import RECIPES as MEISSONIC
from dimo_meissonic.transformer import MeissonicTransformer

MASKGIT_SIZES = {
    "tiny": attrs.evolve(PUBLISHED, width=32, depth=2, heads=2, mlp=64, grid=4, codes=64, classes=10),
    "small": attrs.evolve(PUBLISHED, width=256, depth=8, heads=8, mlp=1024),
    "full": PUBLISHED,
}
MEISSONIC_SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"grid": 8, "layers": (1, 2), "heads": 2, "head": 16, "rope": (4, 6, 6), "codes": 64, "text": 32},
    "small": {
        "grid": 32,
        "layers": (2, 4),
        "heads": 4,
        "head": 64,
        "rope": (8, 28, 28),
        "codes": 2048,
        "text": 256,
    },
    "full": {
        "grid": 64,
        "layers": (14, 28),
        "heads": 8,
        "head": 128,
        "rope": (16, 56, 56),
        "codes": 8192,
        "text": 1024,
    },
}
"""Tokens a side, double and single blocks, heads and their width, rotary axes, codes, width of the text."""

WORDS = {"tiny": 5, "small": 77, "full": 77}
BATCHES = {"maskgit": {"tiny": 2, "small": 8, "full": 64}, "meissonic": {"tiny": 2, "small": 2, "full": 4}}


@attrs.frozen(kw_only=True)
class Shaped(Teacher):
    """A network of random weights, the same each time.

    Attributes:
        tokens: The token space.
        make: Makes the network.
        frozen: Beginnings of the names of parameters that are not trained.
        null: The null condition of a batch.
        checkpointing: Whether activations are computed again.
    """

    tokens: TokenSpace
    make: Callable[[], Backbone]
    frozen: tuple[str, ...]
    null: Callable[[Condition], Condition]
    checkpointing: bool = False

    capabilities = frozenset({"guidance"})
    conditioning = Conditioning(kind="made-up")

    def network(self, *, share: bool = False) -> Backbone:
        """The weights of one seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.skeleton().eval()

    def skeleton(self) -> Backbone:
        """Random weights."""
        network = self.make()
        if self.checkpointing:
            network.gradient_checkpointing = True  # type: ignore[assignment]
        return network

    def encode_conditions(self, raw: Sequence[Any]) -> Condition:
        """They are encoded already."""
        raise NotImplementedError

    def null_condition(self, c: Condition) -> Condition:
        """Another label, or zeros."""
        return self.null(c)

    def frozen_parameters(self) -> tuple[str, ...]:
        """As of the shipped teachers: embeddings and heads."""
        with torch.device("meta"):
            names = [name for name, _ in self.skeleton().named_parameters()]
        return tuple(name for name in names if name.startswith(self.frozen))

    def recipes(self) -> Mapping[str, Recipe]:
        """None."""
        return {}

    def evaluation(self) -> None:
        """None."""


@attrs.frozen(kw_only=True)
class Shape:
    """What is trained in a benchmark.

    Attributes:
        teacher: Makes the teacher; takes whether the mask is scored, and whether to checkpoint activations.
        recipes: The teacher's presets at full scale.
        batch: Conditions of this many samples, on a device.
    """

    teacher: Callable[[bool, bool], Shaped]
    recipes: Mapping[str, Recipe]
    batch: Callable[[int, torch.device], Batch]


def maskgit(size: str) -> Shape:
    """MaskGIT-256, or smaller with as many tokens."""
    a: Architecture = MASKGIT_SIZES[size]

    def teacher(keep: bool, _: bool) -> Shaped:
        return Shaped(
            tokens=TokenSpace(length=a.grid**2, codes=a.codes, mask_id=a.codes, scores_mask=keep),
            make=lambda: MaskTransformer(a, a.codes + keep),
            frozen=("tok_emb.", "pos_emb", "bias"),
            null=lambda c: torch.full_like(c, a.classes),
        )

    def batch(count: int, device: torch.device) -> Batch:
        return Batch(conditions=torch.arange(count, device=device) % a.classes)

    return Shape(teacher=teacher, recipes=MASKGIT["imagenet"], batch=batch)


def meissonic(size: str) -> Shape:
    """Meissonic, or narrower and shallower."""
    s = MEISSONIC_SIZES[size]
    width, (double, single) = s["heads"] * s["head"], s["layers"]

    def make() -> Backbone:
        network: Backbone = MeissonicTransformer(
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=s["head"],
            num_attention_heads=s["heads"],
            joint_attention_dim=s["text"],
            pooled_projection_dim=width,
            axes_dims_rope=s["rope"],
            vocab_size=s["codes"] + 64,
            codebook_size=s["codes"],
            downsample=True,
            upsample=True,
        )
        return network

    def teacher(_: bool, checkpointing: bool) -> Shaped:
        return Shaped(
            tokens=TokenSpace(length=s["grid"] ** 2, codes=s["codes"], mask_id=s["codes"] + 63),
            make=make,
            frozen=("embed.", "mlm_layer."),
            null=lambda c: conditions.tree_map(torch.zeros_like, c),
            checkpointing=checkpointing,
        )

    def batch(count: int, device: torch.device) -> Batch:
        made = torch.Generator().manual_seed(0)
        sizes = {"text": (WORDS[size], s["text"]), "pooled": (width,), "micro": (5,)}
        c = {name: torch.randn(count, *shape, generator=made) for name, shape in sizes.items()}
        return Batch(conditions=conditions.to(c, device))

    return Shape(teacher=teacher, recipes=MEISSONIC["published"], batch=batch)


SHAPES: Mapping[str, Callable[[str], Shape]] = {"maskgit": maskgit, "meissonic": meissonic}


def objective_of(shape: Shape, preset: str) -> DimoObjective:
    """The objective of a preset of the teacher's, at the shape's sizes."""
    recipe = shape.recipes[preset]

    def options(section: str) -> dict[str, Any]:
        return {name: value for name, value in recipe.get(section, {}).items() if name != "name"}

    teacher, objective = options("teacher"), options("objective")
    parts = {part: Optimisation(**objective[part]) for part in ("generator", "auxiliary")}
    made = shape.teacher(teacher.get("mask_logit") == "keep", teacher.get("gradient_checkpointing", False))
    return Dimo(**{**objective, **parts}).build(
        Ingredients(
            teacher=made,
            generator=OneStep(**options("generator")),
            auxiliary=Denoiser(**options("auxiliary")),
            divergence=Jeffrey(**options("divergence")),
            guidance=Constant(**options("guidance")),
        )
    )

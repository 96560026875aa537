"""Token spaces and the tensor types that appear in every signature."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.conditions import Condition
from dimo_core.device import transfer
from dimo_core.errors import UsageError

Tokens = Int[Tensor, "B L"]
"""Token ids, ``[B, L]``."""

Modality = Literal["image", "text", "tokens"]


@attrs.frozen(kw_only=True, eq=False)
class Given:
    """What of a sample is known before anything is drawn: a prompt, padding.

    Attributes:
        tokens: The tokens of the sites that are given; at the others their values do not count.
        valid: The sites that are the model's: only these are ever masked, drawn, counted and scored.
    """

    tokens: Tokens
    valid: Bool[Tensor, "B L"]

    def put(self, x: Tokens) -> Tokens:
        """``x`` with what is given."""
        return torch.where(self.valid, x, self.tokens)


def _ids(given: Iterable[int]) -> tuple[int, ...]:
    return tuple(given)


@attrs.frozen(kw_only=True)
class TokenSpace:
    """Where tokens live: L sites, V codes and one mask id.

    A teacher whose conditions hold a part of the tokens derives a class of its own, with ``given``.

    Attributes:
        length: Number of sites L.
        codes: Number of codes V, as many as logits have columns; the codes are 0 .. V-1.
        mask_id: The id that stands for "masked". Where it is one of 0 .. V-1 it is forbidden.
        forbidden: Ids among 0 .. V-1 that are never drawn: special tokens, columns without a token.
        codebooks: Sizes of the codebooks of the ``group`` codes that lie at one place, in their order, each
            at most V; empty for V each.
        end: The id that ends a sample of variable length: what is behind its first one is filling, and counts
            in no number about samples; None where all samples have the same length.
        group: How many sites lie at one place, one after the other: site l is code l mod group of place
            l // group.
        grid: Rows and columns of the places, row-major; None for tokens without a plane.
        modality: What the tokens decode to.
        scores_mask: True when logits carry one extra last column for the mask token, which may then be drawn
            (the released Di[M]O code; option ``mask_logit: keep`` of a teacher). The mask id is then V.
    """

    length: int = attrs.field(validator=v.gt(0))
    codes: int = attrs.field(validator=v.gt(1))
    mask_id: int
    forbidden: tuple[int, ...] = attrs.field(default=(), converter=_ids)
    codebooks: tuple[int, ...] = attrs.field(default=(), converter=_ids)
    end: int | None = None
    group: int = attrs.field(default=1, validator=v.ge(1))
    grid: tuple[int, int] | None = None
    modality: Modality = "tokens"
    scores_mask: bool = False

    def __attrs_post_init__(self) -> None:
        """Look whether it is a space in which something can be drawn.

        Raises:
            ValueError: for a grid or groups of another number of sites; codebooks that are not one for each
                code of a place; a forbidden id that is no code; an end that is never drawn; a site at which
                nothing is left to draw; a scored mask that is not V.
        """
        if self.length % self.group:
            raise ValueError(f"length {self.length} is no multiple of group {self.group}")
        if self.grid is not None and self.grid[0] * self.grid[1] * self.group != self.length:
            raise ValueError(
                f"grid {self.grid} has {self.grid[0] * self.grid[1] * self.group} sites, but length is "
                f"{self.length}"
            )
        if self.codebooks and len(self.codebooks) != self.group:
            raise ValueError(f"codebooks {self.codebooks} must be {self.group}, one for each code of a place")
        if wrong := [size for size in self.codebooks if not 0 < size <= self.codes]:
            raise ValueError(f"a codebook has from 1 to {self.codes} codes, not {wrong[0]}")
        if wrong := [code for code in self.forbidden if not 0 <= code < self.codes]:
            raise ValueError(f"forbidden id {wrong[0]} is none of the codes 0 .. {self.codes - 1}")
        if self.end is not None and (
            self.end in (*self.forbidden, self.mask_id) or not 0 <= self.end < self.codes
        ):
            raise ValueError(f"end {self.end} is none of the codes 0 .. {self.codes - 1} that are drawn")
        if self.scores_mask and self.mask_id != self.codes:
            raise ValueError(f"with scores_mask the mask id must be V = {self.codes}, got {self.mask_id}")
        if self.restricted and not self.allowed.any(1).all():
            raise ValueError("at some site every code is forbidden, and nothing can be drawn")

    def given(self, c: Condition) -> Given | None:
        """What of the samples their conditions give; None where every site is the model's.

        A batch of one space always gives something or never does.

        Args:
            c: Encoded conditions.
        """
        return None

    @property
    def gives(self) -> bool:
        """Whether conditions give a part of the tokens."""
        return type(self).given is not TokenSpace.given

    def counted(self, x: Tokens, c: Condition) -> Bool[Tensor, "B L"] | None:
        """The sites that numbers about samples are of: the model's, before the first end; None for all.

        Args:
            x: Clean tokens.
            c: Their conditions.
        """
        given = self.given(c)
        valid = None if given is None else given.valid
        if self.end is None:
            return valid
        own = torch.ones_like(x, dtype=torch.bool) if valid is None else valid
        return own & (((x == self.end) & own).cumsum(1) == 0)

    @property
    def restricted(self) -> bool:
        """Whether some code is never drawn at some site."""
        small = any(size < self.codes for size in self.codebooks)
        return bool(self.forbidden) or small or 0 <= self.mask_id < self.codes

    @property
    def allowed(self) -> Bool[Tensor, "period V"]:
        """The codes that may be drawn at site l, in row l mod period; on the CPU."""
        return _allowed(self)

    def restrict(self, z: Float[Tensor, "... V"], rows: Int[Tensor, " K"] | None = None) -> Tensor:
        """Logits with -inf for what is never drawn: the last line of the head of a restricted space.

        Args:
            z: ``[B, L, V]``, or ``[K, V]`` of flat rows.
            rows: Flat indices into B L.
        """
        if not self.restricted:
            return z
        allowed = transfer(self.allowed, z.device)
        site = torch.arange(self.length, device=z.device) if rows is None else rows
        return z.masked_fill(~allowed[site % len(allowed)], -torch.inf)

    def codes_of(self, u: Float[Tensor, "B L"]) -> Tokens:
        """Codes from uniform numbers, each allowed one of a site as likely as the others."""
        allowed = transfer(self.allowed, u.device)
        site = torch.arange(self.length, device=u.device) % len(allowed)
        codes = allowed.int().argsort(
            dim=1, descending=True, stable=True
        )  # those that are allowed come first
        count = allowed.sum(1)[site]
        found: Tensor = codes[site, (u * count).long().minimum(count - 1)]
        return found

    def checked(self, x: Tokens, c: Any = None) -> Tokens:
        """Clean tokens, if they are of this space; waits for their device.

        Args:
            x: Tokens.
            c: Their conditions: what they give is not looked at.

        Raises:
            UsageError: for another length, or ids that are no codes, or are forbidden.
        """
        if x.shape[1] != self.length or (len(x) and not 0 <= int(x.min()) <= int(x.max()) < self.codes):
            least, most = (int(x.min()), int(x.max())) if x.numel() else (0, 0)
            raise UsageError(
                f"tokens of {x.shape[1]} sites from {least} to {most} were given; the teacher's have "
                f"{self.length} sites and codes from 0 to {self.codes - 1}."
            )
        given = None if c is None else self.given(c)
        if self.restricted:
            allowed = transfer(self.allowed, x.device)
            bad = ~allowed[torch.arange(self.length, device=x.device) % len(allowed), x]
            bad = bad if given is None else bad & transfer(given.valid, x.device)
            if bool(bad.any()):
                row, site = bad.nonzero()[0].tolist()
                raise UsageError(
                    f"token {int(x[row, site])} was given at site {site} of sample {row}, and the teacher "
                    "never has it there."
                )
        return x

    @property
    def columns(self) -> int:
        """Number of logit columns: V, or V + 1 when the mask token is scored."""
        return self.codes + int(self.scores_mask)


@cache
def _allowed(space: TokenSpace) -> Bool[Tensor, "period V"]:
    sizes = torch.tensor(space.codebooks or (space.codes,), device="cpu")
    allowed = torch.arange(space.codes, device="cpu") < sizes[:, None]
    never = [*space.forbidden, *([space.mask_id] if 0 <= space.mask_id < space.codes else [])]
    allowed[:, never] = False
    return allowed

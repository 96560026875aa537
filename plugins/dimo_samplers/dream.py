"""Dream's samplers: by a schedule of times, in random order or the surest tokens first (arXiv 2508.15487)."""

from collections.abc import Callable
from typing import Literal, get_args

import attrs
import torch
from attrs import validators as v
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import Backbone, Rows
from dimo_core.draws import Draws, categorical
from dimo_core.generator import filtered
from dimo_core.guidance import Guidance, guided, passes
from dimo_core.method.logits import chunks
from dimo_core.sampler import Sampled, ScheduledSampler, Unknown
from dimo_core.teacher import Teacher
from dimo_samplers.scoring import best, scored

Algorithm = Literal["origin", "maskgit_plus", "topk_margin", "entropy"]


def shares(steps: int, eps: float) -> list[float]:
    """The share 1 - s / t of the masked tokens that each step from t to s decides, in fp32; the last has all.

    Args:
        steps: Between the times, which lie evenly from 1 to ``eps``.
        eps: Where they end.
    """
    t = torch.linspace(1, eps, steps + 1, dtype=torch.float32, device="cpu")
    return [*(1 - t[1:-1] / t[:-2]).tolist(), 1.0]


def whole_share(tokens: int, share: float) -> int:
    """A share of so many tokens, rounded down, in fp32.

    With as many steps as tokens the first step decides nothing, therefore, and the last one two.
    """
    return int(torch.tensor(tokens, dtype=torch.float32, device="cpu") * share)


@attrs.frozen(kw_only=True)
class DreamSampler(ScheduledSampler):
    """``diffusion_generate`` of Dream; one pass a step.

    Attributes:
        alg: How the tokens of a step are chosen, by Dream's names: each masked one on its own with the
            probability 1 - s / t (origin), or a number of the surest ones: by the probability of the drawn
            token (maskgit_plus), by what the likeliest is ahead of the second (topk_margin), or by the
            entropy (entropy).
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Draw from the nucleus of this mass; 1 for all. It comes before ``top_k``, and how sure a token
            is, is told by what both leave.
        top_k: Draw from the k likeliest; 0 for all.
        alg_temp: Draw the sites, too: without replacement, from softmax(how sure / alg_temp); 0 takes the
            surest.
        eps: Where the times end.
    """

    alg: Algorithm = attrs.field(default="entropy", validator=v.in_(get_args(Algorithm)))
    temperature: float = attrs.field(default=0.0, validator=v.ge(0))
    top_p: float = attrs.field(default=1.0, validator=[v.gt(0), v.le(1)])
    top_k: int = attrs.field(default=0, validator=v.ge(0))
    alg_temp: float = attrs.field(default=0.0, validator=v.ge(0))
    eps: float = attrs.field(default=1e-3, validator=[v.gt(0), v.lt(1)])

    def from_masks(
        self,
        teacher: Teacher,
        network: Backbone,
        start: Unknown,
        *,
        steps: int,
        guidance: Guidance,
        keep_trajectory: bool,
    ) -> Sampled:
        """Start from masks only; a step in which no token is decided makes no pass."""
        x, undecided, draws, used, trajectory = start.x, start.undecided, start.draws, 0, list[Tensor]()
        planned = self._plan(start.sites, steps)
        for n, step in enumerate(planned):
            if self.alg == "origin" and not bool(undecided.any()):
                break
            now = attrs.evolve(draws, phase=f"{draws.phase}/{step.index}")
            progress = n / (len(planned) - 1) if len(planned) > 1 else 1.0
            scale = guidance.at(torch.full((draws.count,), step.ratio), progress)
            used += passes(scale)
            told = teacher.at_step(network, n, len(planned))
            ratio = undecided.float().sum(1) / start.sites
            logits = guided(teacher, told, x, start.c, mask_ratio=ratio, scale=scale)
            drawn, decide = self._decided(logits, undecided, step, teacher.tokens.columns, now)
            x, undecided = torch.where(decide, drawn, x), undecided & ~decide
            trajectory += [x] if keep_trajectory else []
        return Sampled(tokens=x, passes=used, trajectory=tuple(trajectory))

    def _plan(self, sites: int, steps: int) -> list["_Step"]:
        """The steps that decide something, as far as that is known before."""
        planned, left, drawn = list[_Step](), sites, self.alg == "origin"
        for i, share in enumerate(shares(steps, self.eps)):
            count, ratio = whole_share(left, share), 1 - i / steps if drawn else left / sites
            if drawn or count:
                planned.append(_Step(index=i, left=left, count=count, share=share, ratio=ratio))
            left -= count
        return planned

    def _decided(
        self,
        logits: Callable[[Rows], Float[Tensor, "K V"]],
        undecided: Bool[Tensor, "B L"],
        step: "_Step",
        columns: int,
        draws: Draws,
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Tokens, and the sites that get them."""
        length = undecided.shape[1]
        u = draws.uniform("drawn", length).flatten() if self.temperature > 0 else None
        if self.alg == "origin":
            decide = undecided & (draws.uniform("reveal", length) < step.share)
            rows = decide.flatten().nonzero().squeeze(1)
            tokens = torch.zeros_like(undecided, dtype=torch.long).flatten()
            for some in (rows[k] for k in chunks(len(rows), undecided.numel(), columns)):
                tokens[some] = self.judged(logits(some), some, u)[0]
            return tokens.view_as(undecided), decide
        drawn, sure = scored(logits, undecided, step.left, columns, lambda z, rows: self.judged(z, rows, u))
        if self.alg_temp > 0:  # the largest of noisy scores are drawn without replacement
            sure = sure / self.alg_temp + draws.gumbel("order", length)
        return drawn, best(sure, step.count)

    def judged(
        self, z: Float[Tensor, "K V"], rows: Rows, u: Float[Tensor, " N"] | None
    ) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
        """A token for each of some sites, and how sure it is.

        Args:
            z: Logits of the sites.
            rows: Which of all they are.
            u: A uniform number for each of all sites; None takes the likeliest token.
        """
        z = filtered(filtered(z, self.temperature or 1.0, 0, self.top_p), 1.0, self.top_k, 1.0)
        p = z.softmax(-1)
        token = p.argmax(-1) if u is None else categorical(z, u[rows])
        match self.alg:
            case "topk_margin":
                first, second = p.topk(2, -1).values.unbind(-1)
                return token, first - second
            case "entropy":
                return token, (p * (p + 1e-10).log()).sum(-1)
        return token, p.gather(-1, token[:, None]).squeeze(-1)


@attrs.frozen(kw_only=True)
class _Step:
    """A step: its number, the tokens of a sample before it, how many it decides, and what share that is.

    ``ratio`` is the share of masks that guidance sees. Where each site is decided on its own, the numbers are
    not those of a sample, and the share is a probability.
    """

    index: int
    left: int
    count: int
    share: float
    ratio: float

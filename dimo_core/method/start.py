"""Where a rollout begins: at the generator's own x_init, or at re-masked data."""

from collections.abc import Callable

import attrs
from jaxtyping import Bool, Float
from torch import Tensor

from dimo_core.device import transfer
from dimo_core.draws import Draws
from dimo_core.generator import Generator, Rollout
from dimo_core.method import process
from dimo_core.method.process import Masking, Remask, Schedule, draw_mask, mask_ratio
from dimo_core.objective import Batch

Start = Callable[[Generator, Batch, Draws, Remask], Rollout]
"""The rollout of a batch, whose tokens are going to be re-masked so."""


def from_noise(p_theta: Generator, batch: Batch, draws: Draws, remask: Remask) -> Rollout:
    """The generator's own: x_init, and what a generator of several steps makes of it (Di[M]O)."""
    return p_theta.rollout(batch.conditions, draws)


@attrs.frozen(kw_only=True)
class FromData:
    """x_t ~ q_{t|0}(. | x_0) of data, completed by the generator (IDLM, D-MMD).

    Attributes:
        schedule: r(t).
        masking: As in ``draw_mask``.
        bounds: Least and largest r(t).
        horizon: None draws t ~ U[0, 1], apart from that of the re-masking, which may then hide tokens of the
            data too (IDLM). A number makes t the re-masking's own plus up to so much, at most 1, and the
            masked sites a superset of those that are masked again: what is visible stays (D-MMD; 1 / steps).
    """

    schedule: Schedule
    masking: Masking
    bounds: tuple[float, float] = (0.0, 1.0)
    horizon: float | None = None

    def __call__(self, p_theta: Generator, batch: Batch, draws: Draws, remask: Remask) -> Rollout:
        """A rollout whose visible sites are decided."""
        space, host = p_theta.space, draws.host()
        valid = None if batch.valid is None else process.of_batch(batch.valid, draws)
        ratio, masked = self.draw(space.length, host, valid)
        x_t = process.apply_mask(batch.x_0, transfer(masked, draws.device), space)
        sites = space.length if valid is None else valid.sum(1).clamp_min(1)
        seen = transfer(masked.sum(1) / sites if self.masking == "exact" else ratio, draws.device)
        hidden = p_theta.denoise(x_t, batch.conditions, draws, mask_ratio=seen.float())
        u = draws.uniform("x_theta", space.length)
        return Rollout(x_init=x_t, hidden=hidden, u=u, decided=x_t != space.mask_id)

    def draw(
        self, length: int, host: Draws, valid: Bool[Tensor, "B L"] | None = None
    ) -> tuple[Float[Tensor, " B"], Bool[Tensor, "B L"]]:
        """r(t) and the masked sites of x_t, among those that are valid."""
        if self.horizon is None:
            own = attrs.evolve(host, phase=f"{host.phase}.start")
            ratio = mask_ratio(own.uniform("t"), self.schedule).clamp(*self.bounds)
            return ratio, draw_mask(ratio, length, own, self.masking, valid)
        later = host.uniform("t") + self.horizon * host.uniform("later")
        ratio = mask_ratio(later.clamp(max=1.0), self.schedule).clamp(*self.bounds)
        return ratio, draw_mask(ratio, length, host, self.masking, valid)

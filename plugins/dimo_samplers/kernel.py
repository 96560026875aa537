"""The law of one stage of unmasking: which masked sites jump to a code, and to which one."""

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.draws import categorical


@attrs.frozen(kw_only=True, eq=False)
class Kernel:
    """What happens to K masked sites, each on its own given the state; a decided site never changes.

    Attributes:
        unmask: ``[K]``, the probability that the site gets a code.
        codes: ``[K, V]``, the probabilities of the codes given that it does.
    """

    unmask: Float[Tensor, " K"]
    codes: Float[Tensor, "K V"]

    def draw(
        self, jump: Float[Tensor, " K"], code: Float[Tensor, " K"]
    ) -> tuple[Bool[Tensor, " K"], Int[Tensor, " K"]]:
        """Which sites get a code, and a code for each.

        Args:
            jump: Uniform numbers, one a site.
            code: Uniform numbers, independent of ``jump``.
        """
        return jump < self.unmask, categorical(self.codes.log(), code)


def posterior(z: Float[Tensor, "K V"], before: float, after: float) -> Kernel:
    """q(x_s | x_t, x_0) of the masked process with x_0 ~ softmax(z) (MDLM, arXiv 2406.07524).

    A masked site gets a code with probability (r_t - r_s) / r_t, which is (alpha_s - alpha_t) / (1 - alpha_t)
    for any schedule alpha = 1 - r. At r_s = 0 that is 1.

    Args:
        z: Logits.
        before: Mask ratio r_t.
        after: Mask ratio r_s, smaller.
    """
    return Kernel(unmask=z.new_full(z.shape[:1], (before - after) / before), codes=z.softmax(-1))


def first_jump(mu: Float[Tensor, "K V"], width: float) -> Kernel:
    """Jumps at the constant rates mu for a time; the first one counts, as no site leaves a code.

    P(unmask) = 1 - exp(-h sum_v mu_v), and the code is v with probability mu_v / sum mu. Poisson counts in
    place of it, of which two at one site are refused, leave theta-trapezoidal with first order only.

    Args:
        mu: Rates, of which each site has a positive one.
        width: Time h.
    """
    total = mu.sum(-1)
    return Kernel(unmask=-torch.expm1(-width * total), codes=mu / total[:, None])

"""A teacher that is trained on a known joint: seconds, and the same weights every time."""

import torch
from torch import Tensor

from dimo_core.tokens import TokenSpace
from dimo_gym.joints import Joint
from dimo_gym.networks import Perceptron
from dimo_gym.partial import conditionals, marginals, states

BATCH, RATE = 1024, 4e-3


def state_weights(p: Joint, space: TokenSpace) -> Tensor:
    """How often training meets each partly masked sequence, ``[C, M]``, rows summing to 1.

    The number of masked sites is uniform on 1 .. L and the sites are random, as re-masking with exact counts
    and a linear schedule has it; what is visible is drawn from the joint.
    """
    masks = (states(space.length, space.codes) == space.mask_id).sum(1)
    seen = marginals(p, space.length, space.codes) * (masks > 0)
    ways = masks.bincount(minlength=space.length + 1).double()
    # A count of n masks has C(L, n) patterns, in each of which what is visible has the whole probability.
    patterns = ways / space.codes ** (space.length - torch.arange(space.length + 1)).double()
    return seen / patterns[masks] / space.length


def learnt(p: Joint, space: TokenSpace, *, width: int, steps: int, seed: int) -> Perceptron:
    """A perceptron that has learnt the conditionals of a joint by masked modelling.

    Args:
        p: The joint.
        space: Its sites and codes.
        width: Of the hidden layers.
        steps: Adam steps on batches of partly masked sequences, with a learning rate that falls to 0.
        seed: Of initial weights and batches.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = Perceptron(space, width)
        generator = torch.Generator().manual_seed(seed)
        x, often = states(space.length, space.codes), state_weights(p, space).flatten()
        known = conditionals(p.clamp_min(torch.finfo(p.dtype).tiny), space.length, space.codes)
        targets, masked = known.flatten(0, 1).float(), x == space.mask_id
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            drawn = torch.multinomial(often, BATCH, replacement=True, generator=generator)
            c, at = drawn // len(x), drawn % len(x)
            ratio = masked[at].float().mean(1)
            log_p = network.logits(x[at], c, mask_ratio=ratio).log_softmax(-1)
            loss = -(targets[drawn] * log_p).sum(-1)[masked[at]].sum() / BATCH
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network

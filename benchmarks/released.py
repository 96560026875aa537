"""How the authors' released step works, written anew from what is known of it, to be measured against.

What costs in it: a second generator pass for the auxiliary, attention that keeps its weights (MaskGIT) or
blocks that are computed again (Meissonic), dropout in every network (MaskGIT), heads and full-size tensors
at all sites, a surrogate loss, a host that waits for each parameter's norm, loops over parameters, and masks
made on the CPU. See docs/results/step.md.
"""

import math
from collections.abc import Iterator

import attrs
import torch
import torch.nn.functional as F
from shapes import Shape, Shaped
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.device import arithmetic
from dimo_core.settings import Precision
from dimo_maskgit.transformer import Attention

LR, EPS, EMA, SMOOTHING = 1e-5, 1e-6, 0.9999, 0.1


def keep_weights(network: nn.Module) -> None:
    """Let attention make its weights, as ``nn.MultiheadAttention`` does when it is asked for them."""

    def attend(module: Attention, x: Tensor) -> Tensor:
        b, s, d = x.shape
        qkv = F.linear(x, module.in_proj_weight, module.in_proj_bias)
        q, k, v = qkv.view(b, s, 3, module.heads, d // module.heads).permute(2, 0, 3, 1, 4)
        weights = ((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)).softmax(-1)
        weights = F.dropout(weights, module.dropout, module.training)
        module.kept = weights.mean(1)  # type: ignore[assignment]  # the map that is returned and listed
        projected: Tensor = module.out_proj((weights @ v).transpose(1, 2).reshape(b, s, d))
        return projected

    for module in network.modules():
        if isinstance(module, Attention):
            vars(module)["forward"] = attend.__get__(module)


@attrs.define(kw_only=True, eq=False)
class Released:
    """Teacher, generator, auxiliary and average, and one step of the released training.

    Attributes:
        teacher: Token space and null condition.
        c: The conditions of every batch.
        device: Where it trains.
        precision: As of ``train.precision``.
        maskgit: MaskGIT's script, or else Meissonic's.
        networks: Teacher, generator, auxiliary, average.
        optimizers: Of generator and auxiliary.
        steps: Steps taken.
    """

    teacher: Shaped
    c: Condition
    device: torch.device
    precision: Precision
    maskgit: bool
    networks: list[Backbone]
    optimizers: list[torch.optim.Optimizer]
    steps: int = 0

    @classmethod
    def of(
        cls, shape: Shape, batch: int, device: torch.device, precision: Precision, name: str
    ) -> "Released":
        """The networks at a shape, with random weights."""
        maskgit = name == "maskgit"
        teacher = shape.teacher(True, not maskgit)
        with device:  # a billion random numbers take a minute on a CPU
            networks = [teacher.network() for _ in range(4)]
        for place, network in enumerate(networks):
            network.train(maskgit or place in (1, 2))
            if maskgit:
                keep_weights(network)
                network.columns = network.tok_emb.num_embeddings  # type: ignore[assignment,union-attr]
            frozen = teacher.frozen_parameters()
            for key, p in network.named_parameters():
                p.requires_grad_(place in (1, 2) and key not in frozen)
        adam = [torch.optim.Adam(trained(networks[i]), lr=LR, eps=EPS) for i in (1, 2)]
        return cls(
            teacher=teacher,
            c=shape.batch(batch, device).conditions,
            device=device,
            precision=precision,
            maskgit=maskgit,
            networks=networks,
            optimizers=adam,
        )

    def tensors(self) -> Iterator[Tensor]:
        """What is kept from step to step."""
        for network in self.networks:
            yield from network.parameters()
            yield from (p.grad for p in network.parameters() if p.grad is not None)
        for optimizer in self.optimizers:
            yield from (t for state in optimizer.state.values() for t in state.values())

    def masks(self, counts: list[int]) -> Tensor:
        """So many sites of each sample, chosen on the CPU."""
        masked = torch.zeros(len(counts), self.teacher.tokens.length, dtype=torch.bool)
        for row, count in zip(masked, counts, strict=True):
            row[torch.randperm(len(row))[:count]] = True
        return masked.to(self.device)

    def z(self, network: Backbone, x: Tensor, c: Condition) -> Tensor:
        """Logits at all sites, in fp32."""
        with arithmetic(self.precision, self.device):
            logits = network.head(network(x, c, mask_ratio=torch.zeros(len(x), device=self.device)))
        return logits[..., : self.teacher.tokens.columns].float()

    def generated(self, size: int) -> tuple[Tensor, Tensor]:
        """z_theta, and x_theta with the mask among its codes."""
        space, r_init, sigma = self.teacher.tokens, *((0.6, 0.1) if self.maskgit else (0.5, 0.3))
        x = torch.randint(0, space.codes, (size, space.length)).to(self.device)
        x[self.masks([round(r_init * space.length)] * size)] = space.mask_id
        e = self.networks[1].embed(x)
        z = self.z(self.networks[1], math.sqrt(1 - sigma**2) * e + sigma * torch.randn_like(e), self.c)
        return z, torch.distributions.Categorical(probs=z.detach().softmax(-1)).sample()

    def remasked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_tilde_t, and where it is masked."""
        u = torch.rand(len(x))
        ratio = u.acos() * 2 / math.pi if self.maskgit else (u * math.pi / 2).cos().clamp(0.02, 0.98)
        masked = self.masks([max(1, round(float(r) * x.shape[1])) for r in ratio])
        x_t = x.clone()
        x_t[masked] = self.teacher.tokens.mask_id
        return x_t, masked

    def guided(self, x: Tensor) -> Tensor:
        """z_phi: both halves in one batch, or one after the other."""
        null = self.teacher.null_condition(self.c)
        if self.maskgit:
            z_c, z_u = self.z(self.networks[0], torch.cat([x, x]), conditions.cat([self.c, null])).chunk(2)
            return z_u + 2.0 * (z_c - z_u)
        z_c, z_u = (self.z(self.networks[0], x, c) for c in (self.c, null))
        return z_u + 4.0 * (z_c - z_u)

    def step(self) -> None:
        """The generator's update, the auxiliary's from another rollout, and the average."""
        size = conditions.batch_size(self.c)
        z_theta, x = self.generated(size)
        x_t, masked = self.remasked(x)
        with torch.no_grad():
            z_phi, z_psi = self.guided(x_t), self.z(self.networks[2], x_t, self.c)
            p, q = z_phi.softmax(-1), z_psi.softmax(-1)
            log_p, log_q = z_phi.log_softmax(-1), z_psi.log_softmax(-1)
            (p * (log_p - log_q)).sum(-1).mean().item()
            gradient = torch.nan_to_num(torch.where(masked[..., None], q - p, torch.zeros_like(q)))
        target = (z_theta - gradient).detach()
        self.update(0, 0.5 * F.mse_loss(z_theta, target, reduction="sum") / size, clip=True)

        with torch.no_grad():
            z_theta, x = self.generated(size)
            z_theta.softmax(-1)
        x_t, masked = self.remasked(x)
        z_psi = self.z(self.networks[2], x_t, self.c)
        self.update(1, F.cross_entropy(z_psi[masked], x[masked], label_smoothing=SMOOTHING), clip=False)

        self.steps += 1
        decay = min(EMA, self.steps / (9 + self.steps))
        with torch.no_grad():
            for average, p in zip(self.networks[3].parameters(), self.networks[1].parameters(), strict=True):
                average.mul_(decay).add_(p, alpha=1 - decay)

    def update(self, which: int, loss: Tensor, clip: bool) -> None:
        """Backward, norms one by one, clipping, repairs one by one, Adam."""
        own = list(trained(self.networks[1 + which]))
        self.optimizers[which].zero_grad()
        loss.backward()
        sum(p.grad.norm().item() ** 2 for p in own if p.grad is not None)
        if clip:
            nn.utils.clip_grad_norm_(own, 1.0)
        for p in own:
            if p.grad is not None:
                torch.nan_to_num(p.grad, posinf=1e5, neginf=-1e5, out=p.grad)
        self.optimizers[which].step()
        loss.item()


def trained(network: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that learn."""
    return (p for p in network.parameters() if p.requires_grad)

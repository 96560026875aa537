"""The network and the loss against values of the published code (tests/data/mdlm), in float64 and float32."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dimo_core.draws import RecordedDraws
from dimo_core.method.masked_modelling import MaskedModelling
from dimo_core.objective import Batch, Ingredients
from dimo_mdlm.network import (
    MdlmNetwork,
    inverse_frequencies,
    noise_level,
    rotary_tables,
    sinusoid,
)
from dimo_mdlm.teacher import Mdlm

DATA = Path(__file__).parents[1] / "data" / "mdlm"
MASK, CODES = 29, 29
Golden = Callable[[str], dict[str, Tensor]]


@pytest.fixture(scope="module")
def io(golden: Golden) -> dict[str, Tensor]:
    return golden("mdlm/network_io")


def network(timed: bool = False) -> MdlmNetwork:
    return Mdlm(checkpoint=str(DATA), time_conditioning=timed).network().double()


def ratio_of(sigma: Tensor) -> Tensor:
    return -torch.expm1(-sigma)


def logits(of: MdlmNetwork, x: Tensor, sigma: Tensor | None = None) -> Tensor:
    ratio = torch.ones(len(x), dtype=torch.float64) if sigma is None else ratio_of(sigma)
    return of.logits(x, torch.zeros(len(x), dtype=torch.long), mask_ratio=ratio)


def near(expected: Tensor, actual: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), atol=atol, rtol=0)


@pytest.mark.parametrize("run", ["sigma0", "sigma"])
def test_logits_are_those_of_the_published_network(run: str, io: dict[str, Tensor]) -> None:
    timed = run == "sigma"
    z = logits(network(timed), io["tokens"], io["sigma"] if timed else None)
    assert (4, 12, CODES) == z.shape
    near(io[f"{run}.logits"][..., :CODES], z)
    masked = io["tokens"] == MASK
    expected = io[f"{run}.log_probs"][masked][:, :CODES]
    torch.testing.assert_close(z[masked].log_softmax(-1), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("run", ["sigma0", "sigma"])
def test_logits_in_single_precision(run: str, io: dict[str, Tensor]) -> None:
    timed = run == "sigma"
    z = logits(network(timed).float(), io["tokens"], io["sigma"] if timed else None)
    near(io[f"{run}.logits"][..., :CODES], z, 2e-5)


def test_another_length(io: dict[str, Tensor]) -> None:
    near(io["other_length.logits"][..., :CODES], logits(network(), io["other_length.tokens"]))


def test_the_vector_of_the_noise_level(io: dict[str, Tensor]) -> None:
    c = torch.zeros(4, dtype=torch.long)
    near(io["timestep_embedding"], sinusoid(io["sigma"]))
    near(io["sigma.c"], network(True).modulation(c, ratio_of(io["sigma"])))
    near(io["sigma0.c"], network().modulation(c, ratio_of(io["sigma"])))


def test_what_happens_within(io: dict[str, Tensor]) -> None:
    one, seen = network(), dict[str, Tensor]()

    def keep(name: str) -> Callable[[object, object, Tensor], None]:
        return lambda _module, _args, out: seen.update({name: out})

    for i, block in enumerate(one.blocks):
        block.attn_out.register_forward_hook(keep(f"attn_out_{i}"))
        block.mlp.register_forward_hook(keep(f"mlp_out_{i}"))
        block.register_forward_hook(keep(f"block_{i}"))
    one.output_layer.norm_final.register_forward_hook(keep("norm_final"))
    logits(one, io["tokens"])
    assert 7 == len(seen)
    for name, out in seen.items():
        near(io[f"sigma0.act.{name}"], out)


def test_rotary_tables(io: dict[str, Tensor]) -> None:
    like = torch.zeros(0, dtype=torch.float64)
    for head, prefix, at in ((8, "rotary", torch.arange(12)), (64, "rotary64", io["rotary64.positions"])):
        assert torch.equal(io[f"{prefix}.inv_freq"], inverse_frequencies(head))
        for name, table in zip(("cos", "sin"), rotary_tables(1024, head, like), strict=True):
            near(io[f"{prefix}.{name}"], torch.cat([table, table], 1)[at])


def test_the_schedule_of_the_noise_level() -> None:
    stored = json.loads((DATA / "schedule.json").read_text())
    ratio = torch.tensor(stored["move_chance"], dtype=torch.float64)
    expected = torch.tensor(stored["total_noise"], dtype=torch.float64)
    torch.testing.assert_close(noise_level(ratio), expected, rtol=1e-12, atol=1e-15)
    assert pytest.approx(stored["sigma_max"], rel=1e-12) == float(noise_level(torch.ones(1).double()))


@pytest.mark.parametrize("run", ["sigma0", "sigma"])
def test_loss_and_gradients_at_masked_rows(run: str, golden: Golden) -> None:
    """The published loss is the cross-entropy of masked rows, weighted 1/t, over all tokens that count."""
    stored, one = golden("mdlm/loss"), network(run == "sigma")
    x_t, x_0, count = stored["x_t"], stored["x0"], stored["attention_mask"]
    assert torch.equal(torch.where(stored["mask_draw"] < stored["move_chance"][:, None], MASK, x_0), x_t)
    torch.testing.assert_close(noise_level(stored["move_chance"]), stored["total_noise"], rtol=1e-12, atol=0)
    masked = x_t == MASK
    rows = masked.flatten().nonzero().squeeze(1)
    c = torch.zeros(4, dtype=torch.long)
    z = one.logits(x_t, c, mask_ratio=stored["move_chance"], rows=rows)
    entropy = F.cross_entropy(z, x_0[masked], reduction="none")
    each = torch.zeros(4, 12, dtype=torch.float64).masked_scatter(masked, entropy) / stored["t"][:, None]
    near(stored[f"{run}.loss_per_token"], each.detach())
    loss = (each * count).sum() / count.sum()
    torch.testing.assert_close(loss.detach(), stored[f"{run}.loss"], rtol=1e-9, atol=0)
    loss.backward()
    grads = {f"{run}.grad.backbone.{name}": p.grad for name, p in one.named_parameters()}
    compared = [name for name in grads if name in stored]
    assert len(compared) == (30 if run == "sigma0" else 11)
    for name in compared:
        largest = float(stored[name].abs().max())
        near(stored[name], grads[name], 1e-6 * max(1.0, largest))
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    torch.testing.assert_close(norm, stored[f"{run}.grad_norm"], rtol=1e-9, atol=0)


def test_the_published_loss_is_that_of_pretraining(golden: Golden) -> None:
    """Per sample: the mean over its masked tokens is MDLM's sum / t, but for t L in place of their number."""
    stored, teacher = golden("mdlm/loss"), Mdlm(checkpoint=str(DATA))
    counts = (stored["x_t"] == MASK).sum(1)
    some = counts > 0  # pretraining masks one token at least
    assert int(some.sum()) > 1
    made = MaskedModelling(schedule="linear", weight="per_masked_token").build(Ingredients(teacher=teacher))
    made.network.double().eval()
    values = {"t": stored["move_chance"][some], "masked": stored["mask_draw"][some].double()}
    batch = Batch(conditions=torch.zeros(len(values["t"]), dtype=torch.long), tokens=stored["x0"][some])
    draws = RecordedDraws(seed=0, total=len(values["t"]), values=values)
    each = stored["sigma0.loss_per_token"].double().sum(1) * stored["t"] / counts
    near(each[some].mean(), made.phases()[0].accumulate(batch, draws)["loss"])


def another_gelu(one: MdlmNetwork) -> None:
    for block in one.blocks:
        block.mlp[1] = torch.nn.GELU()


def another_number_of_heads(one: MdlmNetwork) -> None:
    one.architecture = attrs.evolve(one.architecture, heads=2)
    for block in one.blocks:
        block.heads = 2


def no_bias_of_the_head(one: MdlmNetwork) -> None:
    torch.nn.init.zeros_(one.output_layer.linear.bias)


@pytest.mark.parametrize("change", [another_gelu, another_number_of_heads, no_bias_of_the_head])
def test_a_network_that_is_wrong_is_found(
    change: Callable[[MdlmNetwork], None], io: dict[str, Tensor]
) -> None:
    one = network()
    change(one)
    with pytest.raises(AssertionError):
        near(io["sigma0.logits"][..., :CODES], logits(one, io["tokens"]))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

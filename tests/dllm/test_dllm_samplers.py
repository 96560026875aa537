"""Both samplers of text against trajectories of the published code, with its draws."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.generator import filtered
from dimo_core.guidance import Constant, guided
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling
from dimo_dllm.architecture import Family
from dimo_dllm.teacher import DllmTeacher
from dimo_samplers.blockwise import BlockwiseSampler, plan, spread
from dimo_samplers.dream import DreamSampler, shares, whole_share
from dimo_samplers.threshold import ThresholdSampler

from .conftest import FAMILIES, GOLDEN, table, tensors

Teachers = Callable[..., DllmTeacher]
BLOCKWISE = [name for name, s in table("llada", "sampler_settings").items() if s["sampler"] == "llada"]
DREAM = [name for name, s in table("dream", "sampler_settings").items() if s["sampler"] == "dream"]


@attrs.frozen(kw_only=True)
class Replayed(Draws):
    """Draws that were written down, by step and stream."""

    steps: Sequence[Mapping[str, Tensor]]

    def _recorded(self, stream: str, *shape: int) -> Tensor:
        found = self.steps[int(self.phase.rpartition("/")[2])][stream]
        assert tuple(found.shape[1:]) == shape
        return found

    uniform = gumbel = _recorded


class Golden:
    """A run of the published code."""

    def __init__(self, family: Family, name: str, teacher: Teachers) -> None:
        found = tensors(family, "sampler_trajectory")
        self.settings = table(family, "sampler_settings")[name]
        self.values = {k.removeprefix(f"{name}."): t for k, t in found.items() if k.startswith(f"{name}.")}
        prompt, final = self.values["prompt"], self.values["final"]
        self.sites = final.shape[1] - prompt.shape[1]
        self.teacher = teacher(family, prompt=prompt.shape[1], answer=self.sites)
        vars(self.teacher)["tokens"] = attrs.evolve(self.teacher.tokens, forbidden=())
        self.network = self.teacher.network().double()
        self.network.space = None  # the published code forbids nothing, and counts the mask in
        masks = torch.full((len(final), self.sites), self.teacher.architecture.mask_id)
        seen = self.values.get("attention_mask", torch.ones_like(prompt)).bool()
        self.c = {
            "tokens": torch.cat([prompt, masks], 1),
            "valid": torch.cat([torch.zeros_like(seen), torch.ones_like(masks, dtype=torch.bool)], 1),
            "attend": torch.cat([seen, torch.ones_like(masks, dtype=torch.bool)], 1),
        }
        self.guidance = Constant(scale=self.settings.get("cfg_scale", 0.0) + 1)
        each = self.settings.get("alg") == "origin"  # how many are decided is not known before
        self.calls = [i for i, row in enumerate(self.values["revealed"].tolist()) if each or any(row)]
        assert torch.equal(self.values["x_before"][0], self.c["tokens"])

    @torch.no_grad()
    def logits(self, call: int) -> Float[Tensor, "B L V"]:
        x, count = self.values["x_before"][call], len(self.c["tokens"])
        scale = torch.full((count,), self.guidance.scale)
        return guided(self.teacher, self.network, x, self.c, mask_ratio=torch.ones(count), scale=scale)(None)

    def compare(self, sampler: Any, steps: Sequence[Mapping[str, Tensor]]) -> None:
        count = len(self.c["tokens"])
        sampled = sampler.sample(
            self.teacher,
            self.network,
            self.c,
            steps=self.settings["steps"],
            guidance=self.guidance,
            draws=Replayed(seed=0, total=count, steps=steps),
            keep_trajectory=True,
        )
        before = [*self.values["x_before"], self.values["final"]]
        expected = [before[i + 1] for i in self.calls]
        assert len(sampled.trajectory) == len(expected)
        for found, x in zip(sampled.trajectory, expected, strict=True):
            assert torch.equal(found, x)
        assert torch.equal(sampled.tokens, self.values["final"])
        assert sampled.passes == len(self.calls) * (2 if self.guidance.scale != 1 else 1)


def number_of(token: Tensor, z: Tensor) -> Tensor:
    """Uniform numbers with which the inverse CDF of softmax(z) draws these tokens: the middle of each."""
    p = z.softmax(-1)
    at = token[..., None]
    return (p.cumsum(-1).gather(-1, at) - p.gather(-1, at) / 2).squeeze(-1)


@pytest.mark.parametrize("name", BLOCKWISE)
def test_blockwise_is_generate_of_llada(name: str, teacher: Teachers) -> None:
    run = Golden("llada", name, teacher)
    s, steps = run.settings, []
    heat, end, turn = s.get("temperature", 0.0), s["eos_token_id"], s["eot_token_id"]
    never = (end,) if s.get("logits_eos_inf") else ()
    last = ((end, turn) if heat == 0 else (turn,)) if s.get("confidence_eos_eot_inf") else ()
    for call in run.calls:
        drawn = {}
        if heat > 0:  # the published code draws by Gumbel noise
            z, u = run.logits(call), run.values["gumbel_uniform"][call].double()
            x0 = (z.exp() / (-u.log()) ** heat).argmax(-1)
            drawn["drawn"] = number_of(x0, z / heat)
        if s.get("remasking") == "random":
            drawn["order"] = run.values["remask_uniform"][call]
        steps.append(drawn)
    order = "random" if s.get("remasking") == "random" else "confidence"
    options = {"block": s["block_length"], "order": order, "temperature": heat, "never": never, "last": last}
    run.compare(BlockwiseSampler(**options), steps)


@pytest.mark.parametrize("name", DREAM)
def test_dream_is_diffusion_generate(name: str, teacher: Teachers) -> None:
    run = Golden("dream", name, teacher)
    s, steps = run.settings, []
    options = {key: s[key] for key in ("alg", "temperature", "top_p", "top_k", "alg_temp", "eps") if key in s}
    sampler = DreamSampler(**options)
    for call in range(s["steps"]):
        drawn = {}
        if sampler.temperature > 0:
            z = run.logits(call)
            z = filtered(filtered(z, sampler.temperature, 0, sampler.top_p), 1.0, sampler.top_k, 1.0)
            drawn["drawn"] = number_of(run.values["drawn_tokens"][call].clamp_min(0), z)
        if sampler.alg == "origin":
            drawn["reveal"] = run.values["reveal_uniform"][call]
        if sampler.alg_temp > 0:  # whatever the scores are, these sites are ahead of the others
            drawn["order"] = 1e9 * run.values["chosen_positions"][call].double()
        steps.append(drawn)
    run.compare(sampler, steps)


@pytest.mark.parametrize(
    ("family", "name", "by"),
    [
        ("llada", "threshold", "confidence"),
        ("llada", "entropy_threshold", "entropy"),
        ("dream", "entropy_threshold", "entropy"),
    ],
)
def test_threshold_is_that_of_fast_dllm_and_dparallel(
    family: Family, name: str, by: Any, teacher: Teachers
) -> None:
    run = Golden(family, name, teacher)
    run.settings["steps"] = 50
    s = run.settings
    run.compare(ThresholdSampler(by=by, threshold=s["threshold"], block=s["block_length"]), [])


@pytest.mark.parametrize("name", [name for name in DREAM if "origin" not in name])
def test_how_sure_dream_is(name: str, teacher: Teachers) -> None:
    run = Golden("dream", name, teacher)
    names = ("alg", "temperature", "top_p", "top_k")
    sampler = DreamSampler(**{key: run.settings[key] for key in names if key in run.settings})
    for call, expected in enumerate(run.values["confidence"]):
        z = run.logits(call)
        u, heat = None, sampler.temperature
        if heat > 0:
            kept = filtered(filtered(z, heat, 0, sampler.top_p), 1.0, sampler.top_k, 1.0)
            u = number_of(run.values["drawn_tokens"][call].clamp_min(0), kept).flatten()
        masked = run.values["x_before"][call].flatten() == run.teacher.architecture.mask_id
        rows = masked.nonzero().squeeze(1)
        sure = sampler.judged(z.flatten(0, 1)[rows], rows, u)[1]
        torch.testing.assert_close(sure, expected.flatten()[rows].double(), atol=1e-6, rtol=0)


def test_token_counts_of_llada() -> None:
    known = table("llada", "num_transfer_tokens")
    for row in known["per_row"]:
        assert spread(row["masked"], row["steps"]) == row["tokens_per_step"]
    for run in known["runs"]:
        sites, block, steps = run["gen_length"], run["block_length"], run["steps"]
        if "error" in run:  # where the published code stops, every token is decided all the same
            counts = plan(sites, block, steps)
            assert sum(count for _, count in counts) == sites
            assert len(counts) <= steps
            continue
        own = [count for count in run["tokens_per_step_in_a_block"] if count]
        assert plan(sites, block, steps) == [(b, n) for b in range(run["blocks"]) for n in own]
    with pytest.raises(UsageError, match="3 steps are fewer than the 4 blocks"):
        plan(32, 8, 3)


def test_times_and_token_counts_of_dream() -> None:
    for row in table("dream", "timesteps"):
        each, left, counts = shares(row["steps"], row["eps"]), row["max_new_tokens"], []
        for share in each:
            counts.append(whole_share(left, share))
            left -= counts[-1]
        assert counts == row["tokens_per_step"]
        if "origin_reveal_probability" in row:
            expected = torch.tensor(row["origin_reveal_probability"])
            assert torch.equal(torch.tensor(each), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_named_samplings_run(family: Family, teacher: Teachers) -> None:
    made = teacher(family)
    c = made.encode_conditions(["a cat", "the dog"])
    for name in made.samplings():
        how = TeacherSampling.named(made, name, Registry.discover())
        x = how.draw(made, made.network(), c, Draws(seed=0, total=2)).tokens
        assert torch.equal(x[:, :6], c["tokens"][:, :6]), "the prompt stays"
        made.tokens.checked(x, c)


def test_the_data_of_the_tests_are_whole() -> None:
    for family in FAMILIES:
        assert json.loads((GOLDEN / family / "sampler_settings.json").read_text())
    assert (len(BLOCKWISE), len(DREAM)) == (11, 11)


def test_threshold_counts_the_passes_of_each_sample_as_if_it_were_alone(teacher: Teachers) -> None:
    made = teacher("llada")
    network, way = made.network(), {"steps": 8, "guidance": Constant(scale=1.0)}
    c = made.encode_conditions(["the cat", "a dog is", "no"])
    sampler = ThresholdSampler(threshold=0.3, block=None)
    draws = Draws(seed=0, phase="x", total=3)
    together = sampler.sample(made, network, c, draws=draws, **way)
    alone = [
        sampler.sample(made, network, {k: t[i : i + 1] for k, t in c.items()}, draws=draws.slice(i, 1), **way)
        for i in range(3)
    ]
    assert together.each().tolist() == [one.passes for one in alone] == [int(one.each()) for one in alone]
    assert together.passes == max(one.passes for one in alone)
    assert len(set(together.each().tolist())) > 1

"""z = z_u + s (z_c - z_u), its scales, and what it costs."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dimo_core.cli import main
from dimo_core.errors import ConfigError
from dimo_core.guidance import Adaptive, Constant, Guidance, Ramp, guided, passes
from dimo_core.options import build
from dimo_core.registry import Registry

EMBEDDED = Path(__file__).parents[2] / "teachers" / "dimo_maskgit" / "embedded"
REGISTRY = Registry.discover({})

X = torch.tensor([[0, 5, 2, 5], [5, 5, 1, 0], [3, 3, 5, 4]])
C = torch.tensor([0, 1, 0])
RATIO = torch.tensor([0.5, 0.5, 0.25])


def logits(teacher: Any, network: Any, scale: Tensor, rows: Tensor | None = None) -> Tensor:
    return guided(teacher, network, X, C, mask_ratio=RATIO, scale=scale)(rows)


def test_logits_move_from_the_null_condition_through_the_condition(tiny_teacher: Any) -> None:
    network = tiny_teacher.network()
    scale = torch.tensor([0.0, 2.5, 1.0])
    z_c = network.logits(X, C, mask_ratio=RATIO)
    z_u = network.logits(X, torch.full_like(C, 2), mask_ratio=RATIO)
    expected = torch.stack([z_u[b] + s * (z_c[b] - z_u[b]) for b, s in enumerate(scale.tolist())])
    torch.testing.assert_close(logits(tiny_teacher, network, scale), expected)


def test_rows_are_those_of_all_logits(tiny_teacher: Any) -> None:
    network, rows, scale = tiny_teacher.network(), torch.tensor([1, 3, 4, 10]), torch.tensor([0.5, 2.0, 3.0])
    expected = logits(tiny_teacher, network, scale).flatten(0, 1)[rows]
    torch.testing.assert_close(logits(tiny_teacher, network, scale, rows), expected)


@pytest.mark.parametrize(("scale", "sizes"), [([1.0, 1.0, 1.0], [3]), ([1.0, 1.0, 1.5], [6])])
def test_one_pass_where_guidance_is_off_and_one_double_batch_where_it_is_on(
    tiny_teacher: Any, scale: list[float], sizes: list[int]
) -> None:
    network, seen = tiny_teacher.network(), []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    logits(tiny_teacher, network, torch.tensor(scale))
    assert sizes == seen
    assert sum(sizes) // 3 == passes(torch.tensor(scale))


@pytest.mark.parametrize("guidance", [Constant(scale=3.0), Ramp(scale=3.0), Adaptive(scale=3.0)])
def test_scales_keep_shape_and_dtype(guidance: Guidance) -> None:
    for ratio in (torch.zeros(4), torch.ones(2, dtype=torch.float64)):
        scale = guidance.at(ratio)
        assert (ratio.shape, ratio.dtype) == (scale.shape, scale.dtype)


@given(scale=st.floats(0, 10), ratio=st.floats(0, 1))
def test_scales_at_a_mask_ratio(scale: float, ratio: float) -> None:
    r = torch.tensor([ratio], dtype=torch.float64)
    assert scale == Constant(scale=scale).at(r).item()
    assert scale + (1 - scale) * ratio == pytest.approx(Ramp(scale=scale).at(r).item())
    assert 1 + (scale - 1) * ratio == pytest.approx(Adaptive(scale=scale).at(r).item())


def test_the_ramp_follows_the_steps_of_sampling_not_the_ratio() -> None:
    """MaskGIT v1.0: 1 + w i / (n - 1), s = 1 + w."""
    scales = [Ramp(scale=4.0).at(torch.ones(2), i / 3)[0].item() for i in range(4)]
    assert [1.0, 2.0, 3.0, 4.0] == pytest.approx(scales)


@pytest.mark.parametrize("kind", [Constant, Ramp, Adaptive])
def test_that_a_scale_of_0_leaves_the_condition_out_is_said(kind: type, told: list[str]) -> None:
    kind(scale=1.0)
    assert [] == told
    kind(scale=0.0)
    assert "guidance 0 leaves the condition out altogether; no guidance is 1" in told[0]


@pytest.mark.parametrize("kind", [Constant, Ramp, Adaptive])
def test_a_negative_scale_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="scale"):
        kind(scale=-0.5)


@pytest.mark.parametrize("scale", [math.inf, -math.inf, math.nan, 1e39])
@pytest.mark.parametrize("name", REGISTRY.names("guidance"))
def test_a_scale_that_is_not_finite_in_fp32_is_refused(name: str, scale: float) -> None:
    with pytest.raises(
        ConfigError, match=f"^scale: must be a finite number, .*; got {re.escape(str(scale))}$"
    ):
        build(REGISTRY.load("guidance", name), {"scale": scale})


@pytest.mark.parametrize(
    "text", ["inf", "nan", "1e999", "{name: ramp, scale: .inf}", "{name: adaptive, scale: .nan}"]
)
@pytest.mark.parametrize("command", [["compare", "--sampling-steps", "1"], ["evaluate", str(EMBEDDED)]])
def test_a_scale_that_is_not_finite_is_refused_before_anything_is_drawn(
    command: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*command, "--samples", "24", "--guidance", text, "--out", str(out)]) in (1, 2)
    assert "error: scale: must be a finite number" in capsys.readouterr().err
    assert not out.exists()


def test_half_precision_logits_are_combined_in_fp32(tiny_teacher: Any) -> None:
    """The difference of two logits is what guidance amplifies: rounding it to bf16 would show."""
    network, scale = tiny_teacher.network(), torch.tensor([4.0, 4.0, 4.0])
    plain = network.head
    network.head = lambda hidden, rows=None: plain(hidden, rows).bfloat16()
    z_c = network.logits(X, C, mask_ratio=RATIO).float()
    z_u = network.logits(X, torch.full_like(C, 2), mask_ratio=RATIO).float()
    torch.testing.assert_close(logits(tiny_teacher, network, scale), z_u + 4 * (z_c - z_u))
    assert torch.float32 == logits(tiny_teacher, network, torch.ones(3)).dtype

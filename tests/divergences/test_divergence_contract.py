"""Divergences as third parties write them: only ``value``, only ``f``, only ``value`` and ``potential``."""

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor

import dimo_divergences
from dimo_core.divergence import Divergence, FDivergence, project, project_flux
from dimo_core.errors import PluginError
from dimo_divergences import FKL, JS, RKL, Hellinger, Jeffrey, Pearson, Triangular
from dimo_divergences.plugin import dimo_register

PAGE = Path(__file__).parents[2] / "docs" / "divergences.md"


@attrs.frozen(kw_only=True)
class ValueOnly(Divergence):
    """Jensen-Shannon from its definition."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        p, q = log_p.exp(), log_q.exp()
        m = (p + q) / 2
        return ((p * (p / m).log() + q * (q / m).log()) / 2).sum(-1)


@attrs.frozen(kw_only=True)
class ValueAndPotential(Divergence):
    """Reverse KL."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_q.exp() * (log_q - log_p)).sum(-1)

    def potential(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_q - log_p


@attrs.frozen(kw_only=True)
class JensenShannonByF(FDivergence):
    def f(self, r: Tensor) -> Tensor:
        return (r * r.log() - (1 + r) * ((1 + r) / 2).log()) / 2


@attrs.frozen(kw_only=True)
class HellingerByF(FDivergence):
    def f(self, r: Tensor) -> Tensor:
        return (r.sqrt() - 1) ** 2


@attrs.frozen(kw_only=True)
class TriangularByF(FDivergence):
    def f(self, r: Tensor) -> Tensor:
        return (r - 1) ** 2 / (r + 1)


@attrs.frozen(kw_only=True)
class ForwardByF(FDivergence):
    def f(self, r: Tensor) -> Tensor:
        return r * r.log()


@attrs.frozen(kw_only=True)
class PearsonByF(FDivergence):
    """An option of the same name sets the limit."""

    log_ratio_max: float = 20.0

    def f(self, r: Tensor) -> Tensor:
        return (r - 1) ** 2


BY_F = [
    (JensenShannonByF(), JS()),
    (HellingerByF(), Hellinger()),
    (TriangularByF(), Triangular()),
    (ForwardByF(), FKL()),
    (PearsonByF(), Pearson()),
]


def pair(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(11)
    log_p, log_q = (torch.randn(2, 30, 9, generator=g, dtype=dtype) * scale).log_softmax(-1)
    return log_p, log_q


@pytest.mark.parametrize(
    ("own", "shipped"), [(ValueOnly(), JS()), (ValueAndPotential(), RKL()), *BY_F], ids=repr
)
def test_every_way_of_writing_gives_the_same_value_and_gradients(own: Divergence, shipped: Divergence):
    log_p, log_q = pair()
    log_w = log_p.roll(1, 0)
    torch.testing.assert_close(own.value(log_p, log_q), shipped.value(log_p, log_q), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(own.grad(log_p, log_q), shipped.grad(log_p, log_q), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        own.student_grad(log_p, log_q, log_w),
        shipped.student_grad(log_p, log_q, log_w),
        rtol=1e-9,
        atol=1e-11,
    )
    ours, theirs = own.potential(log_p, log_q), shipped.potential(log_p, log_q)
    shift = (theirs - ours).mean(-1, keepdim=True)
    torch.testing.assert_close(ours + shift, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scale", [20.0, 1e4])
@pytest.mark.parametrize(("own", "shipped"), BY_F[:4], ids=repr)
def test_an_f_divergence_survives_underflow_in_fp32(own: Divergence, shipped: Divergence, scale: float):
    log_p, log_q = pair(scale, torch.float32)
    torch.testing.assert_close(own.grad(log_p, log_q), shipped.grad(log_p, log_q), rtol=0, atol=1e-5)
    assert own.grad(log_p, log_q).dtype == torch.float32
    if own != ForwardByF():  # its value grows with the log-ratio, which is clipped
        torch.testing.assert_close(own.value(log_p, log_q), shipped.value(log_p, log_q), rtol=1e-5, atol=1e-5)
    for log_w in (log_p, log_p.roll(1, 0)):
        assert own.student_grad(log_p, log_q, log_w).isfinite().all()


def test_an_f_divergence_with_exact_zeros_is_finite():
    log_p, log_q = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).log(), torch.tensor([[0.5, 0.0, 0.5, 0.0]]).log()
    for own, shipped in BY_F[:3]:
        torch.testing.assert_close(own.grad(log_p, log_q), shipped.grad(log_p, log_q), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.value(log_p, log_q), shipped.value(log_p, log_q), rtol=1e-5, atol=1e-6)


def test_an_f_divergence_logs_what_it_clips():
    log_p, log_q = torch.tensor([[0.0, -40.0, -40.0, -41.0]]), torch.tensor([[-40.0, 0.0, -40.0, -41.0]])
    assert JensenShannonByF().diagnostics(log_p, log_q)["clipped_share"].item() == 0.5
    assert JensenShannonByF().log_ratio_max == 30
    assert PearsonByF(log_ratio_max=50.0).diagnostics(log_p, log_q)["clipped_share"].item() == 0


@pytest.mark.parametrize(
    "divergence", [ValueOnly(), JensenShannonByF(), JS(), Jeffrey(), Pearson()], ids=repr
)
@pytest.mark.parametrize("graph", [True, False])
def test_gradients_work_with_and_without_grad_mode_and_carry_no_graph(divergence: Divergence, graph: bool):
    log_p, log_q = pair()
    expected = divergence.grad(log_p, log_q)
    log_p.requires_grad_()
    log_q.requires_grad_()
    with torch.set_grad_enabled(graph):
        results = divergence.grad(log_p, log_q), divergence.student_grad(log_p, log_q, log_p)
    assert [r.requires_grad for r in results] == [False, False]
    torch.testing.assert_close(results[0], expected)
    assert log_q.grad is None
    assert log_p.grad is None


def test_a_class_without_value_or_f_is_refused_with_what_to_do():
    class Nothing(Divergence):
        """Only a potential."""

        def potential(self, log_p: Tensor, log_q: Tensor) -> Tensor:
            return log_q

    class NoF(FDivergence):
        """Nothing at all."""

    with pytest.raises(PluginError, match=r"Nothing does not define value\. A divergence gives value"):
        Nothing()  # type: ignore[abstract]
    with pytest.raises(PluginError, match=r"NoF does not define f\."):
        NoF()  # type: ignore[abstract]


def test_a_value_that_cannot_be_differentiated_is_named():
    class Rounded(Divergence):
        """Constant."""

        def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
            return (log_p.argmax(-1) != log_q.argmax(-1)).double()

    with pytest.raises(PluginError, match=r"value of divergence .*Rounded has no gradient"):
        Rounded().grad(*pair())


@pytest.mark.parametrize("weights", ["ordinary", "almost one-hot"])
def test_both_projections_equal_the_formula(weights: str):
    _, log_w = pair(1.0 if weights == "ordinary" else 15.0)
    u = torch.randn(log_w.shape, dtype=torch.float64)
    w = log_w.exp()
    expected = w * (u - (w * u).sum(-1, keepdim=True))
    torch.testing.assert_close(project(log_w, u), expected, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(project_flux(log_w, w * u), expected, rtol=1e-9, atol=1e-14)


def test_every_divergence_is_registered_and_its_target_exists():
    offers: dict[str, str] = {}

    def register(
        kind: str, name: str, target: str, *, summary: str = "", extra: str = "", api: int = 1
    ) -> None:
        assert kind == "divergence"
        assert summary
        offers[name] = target

    dimo_register(register)
    assert sorted(offers) == sorted(
        [
            "fkl",
            "rkl",
            "jeffrey",
            "js",
            "gjs",
            "skew-fkl",
            "skew-rkl",
            "alpha",
            "tv",
            "hellinger",
            "pearson",
            "neyman",
            "triangular",
        ]
    )
    targets = {target.split(":")[1] for target in offers.values()}
    assert targets == set(dimo_divergences.__all__)
    for target in offers.values():
        module, attribute = target.split(":")
        cls = getattr(__import__(module, fromlist=[attribute]), attribute)
        assert cls is getattr(dimo_divergences, attribute)
        assert isinstance(cls(), Divergence)
        assert attrs.has(cls)


def test_listing_the_divergences_imports_no_torch():
    code = "import sys, dimo_divergences.plugin; print('torch' in sys.modules)"
    listing = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listing.stdout.strip() == "False"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Jefrey"):
        _ = dimo_divergences.Jefrey


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not part of the wheel")
def test_the_three_examples_of_the_documentation_compute_what_they_say():
    names: dict[str, object] = {"__name__": "example"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(block, names)
    examples = {name: names[name] for name in ("ByF", "ByValue", "ByPotential")}
    log_p, log_q = pair()
    for cls in examples.values():
        assert isinstance(cls, type)
        torch.testing.assert_close(cls().grad(log_p, log_q), JS().grad(log_p, log_q), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(cls().value(log_p, log_q), JS().value(log_p, log_q), rtol=1e-9, atol=1e-12)

"""What computes beside training: samplers, pictures, Inception and CLIP, on the device against the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dimo_core import conditions
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.registry import Registry
from dimo_maskgit.teacher import MaskGit
from dimo_meissonic.teacher import Meissonic
from dimo_metrics.clip_model import Clip
from dimo_metrics.inception import Inception

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
RAW: dict[type, list[Any]] = {MaskGit: [0, 1, 1], Meissonic: ["a red circle", "two blue squares", "a cat"]}
each_teacher = pytest.mark.parametrize("made", [MaskGit, Meissonic])


@each_teacher
def test_logits_and_pictures_are_those_of_the_cpu(made: type, device: torch.device) -> None:
    found = []
    for where in (CPU, device):
        teacher = made().on(where)
        network = teacher.network().to(where)
        c = conditions.to(teacher.encode_conditions(RAW[made]), where)
        x = torch.arange(3 * teacher.tokens.length).view(3, -1) % teacher.tokens.codes
        x, half = x.to(where), torch.full((3,), 0.5, device=where)
        with torch.no_grad():
            logits = network.logits(x, c, mask_ratio=half)
            found.append((logits.cpu(), teacher.decode(x, c).float().cpu()))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["maskgit", "random-order", "halton"])
@each_teacher
def test_the_host_waits_for_no_sampler_that_knows_its_counts(
    made: type, name: str, device: torch.device, engines: Any
) -> None:
    teacher = made().on(device)
    network = teacher.network().to(device)
    c = conditions.to(teacher.encode_conditions(RAW[made]), device)
    sampler = Registry.discover({}).load("sampler", name)()

    def drawn() -> torch.Tensor:
        draws = Draws(seed=5, total=3, device=device)
        with torch.no_grad():
            guidance = Constant(scale=3.0)
            return sampler.sample(teacher, network, c, steps=4, guidance=guidance, draws=draws).tokens

    first = drawn()
    with engines.no_waiting(device):
        second = drawn()
    assert torch.equal(first, second)
    assert int(first.max()) < teacher.tokens.codes


def test_inception_on_the_device_is_that_of_the_cpu(random_inception: Path, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (5, 3, 20, 31), dtype=torch.uint8, generator=generator)
    here, there = (
        Inception(weights=str(random_inception), batch_size=2, device=where).extract(pictures)
        for where in ("cpu", str(device))
    )
    for expected, found in zip(here, there, strict=True):
        assert expected.std() > 0
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-2)


def test_clip_on_the_device_is_that_of_the_cpu(tiny_clip: Path, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 48, 37), dtype=torch.uint8, generator=generator)
    texts = ("a red cat", "the hat", "one two three", "x")
    here, there = (Clip.load(str(tiny_clip), where).cosines(images, texts) for where in (CPU, device))
    assert here.std() > 0
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-3)

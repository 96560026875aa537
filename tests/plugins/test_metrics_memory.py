"""Density and coverage of as many features as the paper's protocol has fit in memory."""

import subprocess
import sys

import pytest

CHECK = """
import resource, torch
from dimo_metrics.density import density_and_coverage

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

generator = torch.Generator().manual_seed(0)
real = torch.randn(10_000, 2048, generator=generator)
samples = torch.randn(50_000, 2048, generator=generator)
before = peak()
density_and_coverage(real, samples, 5)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count ru_maxrss in other units")
def test_50_000_samples_and_10_000_real_ones_of_2048_features_take_less_than_2_gib_more() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 2

"""Density and coverage of as many features as the paper's protocol has fit in memory."""

import subprocess
import sys

import pytest

CHECK = """
import torch
from pathlib import Path
from dimo_metrics.density import density_and_coverage

def peak():  # of this program's memory; ru_maxrss would begin with that of the process that started it
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 2**20

generator = torch.Generator().manual_seed(0)
real = torch.randn(10_000, 2048, generator=generator)
samples = torch.randn(50_000, 2048, generator=generator)
before = peak()
density_and_coverage(real, samples, 5)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")
def test_50_000_samples_and_10_000_real_ones_of_2048_features_take_less_than_2_gib_more() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 2

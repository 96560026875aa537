"""The teacher keeps what dimo relies on, and reads and writes letters."""

from pathlib import Path

import pytest
import torch
from dimo_core.errors import CheckpointError
from dimo_core.sources import Examples
from dimo_core.testing import check_teacher
from safetensors.torch import save_file

from dimo_verse.teacher import Verse

SMALL = Verse(length=8, width=8)


def test_it_keeps_the_contract() -> None:
    check_teacher(SMALL, ["of the sea", "of the night", ""])


def test_letters_are_read_and_written() -> None:
    c = SMALL.encode_conditions(["x", "y"])
    x = SMALL.tokenize(Examples(lines=("The sea.", "Night!")), c)
    assert SMALL.texts(x, c) == ("the sea.", "night   ")


def test_weights_come_from_a_file_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    file = str(tmp_path / "weights.safetensors")
    save_file({name: torch.zeros_like(t) for name, t in SMALL.network().state_dict().items()}, file)
    zeros = Verse(length=8, width=8, weights=file)
    assert not any(p.any() for p in zeros.network().parameters())
    assert list(zeros.provenance()) == ["weights"]
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        Verse(length=9, width=8, weights=file).network()

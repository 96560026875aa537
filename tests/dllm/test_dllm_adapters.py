"""Adapters for others: in plain transformers and peft, and under the names of the published code."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimo_core.cli import main as dimo
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_generator, save_generator
from dimo_core.registry import Registry
from dimo_core.testing import check_teacher
from dimo_dllm.adapter_files import write_adapter
from dimo_dllm.architecture import Family
from dimo_dllm.teacher import DllmTeacher

from .conftest import FAMILIES

FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
Teachers = Callable[..., DllmTeacher]
each = pytest.mark.parametrize("family", FAMILIES)


def options(own: DllmTeacher) -> dict[str, Any]:
    return {name: getattr(own, name) for name in ("path", "prompt", "answer", "chat", "dtype")}


def save_lora(folder: Path, own: DllmTeacher, further: dict[str, Any]) -> None:
    """The folder of a generator whose adapters have learnt something."""
    lora, sizes = Registry.discover().load("generator", "lora"), {"rank": 3, "alpha": 6.0}
    generator = lora(**sizes).build(own)
    random = torch.Generator().manual_seed(0)
    for name, parameter in generator.backbone.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) / 4
    config = {
        "teacher": {"name": own.family, **options(own), **further},
        "generator": {"name": "lora", **sizes},
    }
    save_generator(Folder(str(folder)), generator, own, config, {"step": 7})


@pytest.fixture
def generators(tmp_path: Path, teacher: Teachers) -> Callable[[Family], Path]:
    """A generator of a family."""

    def made(family: Family) -> Path:
        save_lora(tmp_path / family, teacher(family), {})
        return tmp_path / family

    return made


def plain(own: DllmTeacher) -> Any:
    """The network as anybody builds it of transformers, with the teacher's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2ForCausalLM

    if own.family == "dream":
        return Qwen2ForCausalLM.from_pretrained(own.path, dtype=torch.float32)
    a = own.architecture
    config = LlamaConfig(
        vocab_size=a.columns,
        hidden_size=a.width,
        intermediate_size=a.mlp,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        rms_norm_eps=a.eps,
        rope_parameters={"rope_type": "default", "rope_theta": a.theta},
        rope_theta=a.theta,  # as transformers 4 knows it
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(own.network().state_dict())
    return model


@each
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # of peft
@torch.no_grad()
def test_an_adapter_loads_in_plain_transformers_and_peft(
    family: Family, tmp_path: Path, generators: Any, teacher: Teachers
) -> None:
    from peft import PeftModel

    folder, out = generators(family), tmp_path / "adapter"
    assert dimo(["adapter", "--path", str(folder), "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert "7 steps" in (out / "README.md").read_text()
    own, generator = load_generator(str(folder))
    c = own.encode_conditions(["the cat", "no"])
    x = torch.where(c["valid"], 7, c["tokens"])
    expected = generator.backbone.logits(x, c, mask_ratio=torch.ones(2))
    model: Any = PeftModel.from_pretrained(plain(teacher(family)).eval(), str(out))
    seen = c["attend"]
    mask = seen[:, None, None, :].expand(-1, 1, x.shape[1], -1)
    positions = generator.backbone.positions(seen).expand(2, -1)
    z = model(x, attention_mask=mask, position_ids=positions, use_cache=False).logits
    if family == "dream":
        z = torch.cat([z[:, :1], z[:, :-1]], 1)
    finite = expected.isfinite()
    torch.testing.assert_close(z[finite], expected[finite], atol=1e-4, rtol=0)
    before = own.network().logits(x, c, mask_ratio=torch.ones(2))
    assert (expected - before)[finite].abs().max() > 0.1, "the adapters do something"


def test_names_of_the_published_code(tmp_path: Path, generators: Any) -> None:
    out = tmp_path / "adapter"
    write_adapter(str(generators("llada")), str(out), "published")
    names = sorted(load_file(out / "adapter_model.safetensors"))
    assert len(names) == 2 * 2 * 7
    assert names[0] == "base_model.model.model.transformer.blocks.0.attn_out.lora_A.weight"
    targets = json.loads((out / "adapter_config.json").read_text())["target_modules"]
    assert re.fullmatch(targets, "model.transformer.blocks.1.ff_out")
    assert not re.fullmatch(targets, "model.transformer.ff_out"), "the head keeps out"


def test_what_is_no_adapter_is_refused(tmp_path: Path, generators: Any, teacher: Teachers) -> None:
    folder = generators("llada")
    write_adapter(str(folder), str(tmp_path / "a"))
    with pytest.raises(UsageError, match="is not empty"):
        write_adapter(str(folder), str(tmp_path / "a"))
    own = type(teacher("llada"))(**{**options(teacher("llada")), "adapter": str(tmp_path / "a")})
    save_lora(tmp_path / "above", own, {"adapter": own.adapter})
    with pytest.raises(UsageError, match="on top of the adapter"):
        write_adapter(str(tmp_path / "above"), str(tmp_path / "b"))
    card = (folder / "generator.yaml").read_text()
    body = card.partition("\n")[2]  # without the checksum
    (folder / "generator.yaml").write_text(body.replace("name: lora", "name: one_step"))
    with pytest.raises(UsageError, match="Only adapters"):
        write_adapter(str(folder), str(tmp_path / "b"))


@each
@pytest.mark.parametrize("names", ["transformers", "published"])
def test_a_teacher_with_an_adapter_is_the_generator_that_learnt_it(
    family: Family, names: Any, tmp_path: Path, generators: Any, teacher: Teachers
) -> None:
    folder, out = generators(family), tmp_path / "adapter"
    write_adapter(str(folder), str(out), names)
    own, generator = load_generator(str(folder))
    c = own.encode_conditions(["the cat", "no"])
    x = torch.where(c["valid"], 7, c["tokens"])
    changed = teacher(family, adapter=str(out))
    with torch.no_grad():
        expected = generator.backbone.logits(x, c, mask_ratio=torch.ones(2))
        z = changed.network(share=True).logits(x, c, mask_ratio=torch.ones(2))
    finite = expected.isfinite()
    torch.testing.assert_close(z[finite], expected[finite], atol=1e-4, rtol=0)
    assert set(changed.provenance()) - set(own.provenance()) == {"adapter", "adapter_model.safetensors"}
    check_teacher(changed, ["the cat", "a dog"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"use_dora": True}, r"no plain LoRA \(use_dora\)"),
        ({"peft_type": "IA3"}, "no plain LoRA"),
        ({"r": "many"}, "describes no adapter"),
    ],
)
def test_other_adapters_are_refused(
    change: Any, error: str, tmp_path: Path, generators: Any, teacher: Teachers
) -> None:
    write_adapter(str(generators("dream")), str(tmp_path / "a"))
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=error):
        teacher("dream", adapter=str(tmp_path / "a")).network()


def test_an_adapter_of_another_network_is_refused(tmp_path: Path, generators: Any, teacher: Teachers) -> None:
    write_adapter(str(generators("llada")), str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="k_proj has"):  # Dream's heads are grouped
        teacher("dream", adapter=str(tmp_path / "a")).network()
    write_adapter(str(generators("llada")), str(tmp_path / "b"), "published")
    with pytest.raises(CheckpointError, match="changes nothing that the network has"):
        teacher("dream", adapter=str(tmp_path / "b")).network()
    with pytest.raises(CheckpointError, match="no adapter in"):
        teacher("dream", adapter=str(tmp_path / "none")).check()  # before 15 GB are read
    (tmp_path / "b" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors are needed"):
        teacher("dream", adapter=str(tmp_path / "b")).check()

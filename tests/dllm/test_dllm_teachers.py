"""The teachers: contract, prompts, templates, forbidden ids, the null condition, texts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dimo_core.config.distil import resolve_job
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.guidance import guided
from dimo_core.sources import Examples
from dimo_core.testing import check_teacher
from dimo_dllm.architecture import Family
from dimo_dllm.teacher import DllmTeacher, Llada
from dimo_dllm.tokenizer import dream_chat, llada_chat

from .conftest import FAMILIES, tensors

Teachers = Callable[..., DllmTeacher]
each = pytest.mark.parametrize("family", FAMILIES)
USER = {"role": "user", "content": " what is one? "}


@each
def test_teachers_keep_the_contract(family: Family, teacher: Teachers) -> None:
    check_teacher(teacher(family), ["the cat", "a dog is"])


@each
def test_a_teacher_in_bf16_keeps_it_too(family: Family, teacher: Teachers) -> None:
    made = teacher(family, dtype="bf16")
    assert {p.dtype for p in made.network().parameters()} == {torch.bfloat16}
    shared = made.network(share=True)
    assert all(
        p is q for p, q in zip(shared.parameters(), made.network(share=True).parameters(), strict=True)
    )


@each
def test_ids_without_a_token_and_the_mask_are_never_drawn(family: Family, teacher: Teachers) -> None:
    made = teacher(family)
    c = made.encode_conditions(["the cat"])
    z = made.network().logits(c["tokens"], c, mask_ratio=torch.ones(1))
    never = {"llada": [56, 60, 61, 62, 63], "dream": [58, 59]}[family]
    forbidden = (z[0, -1] == -torch.inf).nonzero().squeeze(1).tolist()
    assert forbidden == never


@each
def test_prompts_are_padded_on_the_left(family: Family, teacher: Teachers) -> None:
    made = teacher(family)
    ids = made.tokenizer.plain("a cat")
    c = made.encode_conditions(["a cat", ""])
    a = made.architecture
    before = 6 - len(ids)
    assert c["tokens"][0].tolist() == [*[a.eos_id] * before, *ids, *[a.mask_id] * 8]
    assert c["valid"].tolist() == [[False] * 6 + [True] * 8] * 2
    assert c["attend"][0].tolist() == [False] * before + [True] * (len(ids) + 8)
    assert c["attend"][1].tolist() == [False] * 6 + [True] * 8
    with pytest.raises(UsageError, match=r"Set --teacher.prompt to \d+ or more"):
        made.encode_conditions(["the cat sat on the mat and so on"])


def test_the_templates_of_both_families() -> None:
    assert llada_chat([USER]) == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nwhat is one?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    told = {"role": "system", "content": "be kind"}
    assert dream_chat([USER]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n what is one? <|im_end|>\n<|im_start|>assistant\n"
    )
    assert dream_chat([told, USER]).startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n")


@each
def test_a_text_is_a_conversation_of_one_message(family: Family, teacher: Teachers) -> None:
    made = teacher(family, chat=True, prompt=99)
    c, same = (
        made.encode_conditions(["one?"]),
        made.encode_conditions([[{"role": "user", "content": "one?"}]]),
    )
    assert torch.equal(c["tokens"], same["tokens"])
    real = c["tokens"][0][c["attend"][0] & ~c["valid"][0]].tolist()
    first, opens = {"llada": (52, 53), "dream": (52, 52)}[family]
    assert real[0] == first, "special tokens are one id each"
    assert opens in real[1:]
    assert made.describe([USER]) == "user:  what is one? "
    for wrong in (3, [], [{"role": "user"}], [{"content": "x", "role": 3}]):
        with pytest.raises(UsageError, match="a condition is a text, or a list of messages"):
            made.encode_conditions([wrong])
    with pytest.raises(UsageError, match=r"use --teacher.chat true"):
        teacher(family).encode_conditions([[USER]])


def test_the_template_of_the_folder_comes_first(folders: dict[Family, Path], tmp_path: Path) -> None:
    for path in folders["llada"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    template = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    made = Llada(path=str(tmp_path), prompt=40)
    assert made.tokenizer.rendered([USER, USER]) == " what is one? ! what is one? !"
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ raise_exception('no') }}"})
    )
    with pytest.raises(UsageError, match="the template of the conversation refuses it: no"):
        Llada(path=str(tmp_path), prompt=40).encode_conditions(["a"])


def test_dreams_tokenizer_is_that_of_qwen(folders: dict[Family, Path], tmp_path: Path) -> None:
    """Without tokenizer.json, from vocab.json and merges.txt, whatever the folder calls its class."""
    from dimo_dllm.tokenizer import ChatTokenizer

    from .conftest import published

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = {letter: i for i, letter in enumerate([*letters, "Ġ", "ca", "cat", "<|endoftext|>"])}
    vocabulary |= {f"<|{i}|>": i for i in range(len(vocabulary), 58)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t\n")
    own = {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.T", None]}}
    own["added_tokens_decoder"] = {"58": {"content": "<|mask|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    files = {path.name: path for path in tmp_path.iterdir()}
    made = ChatTokenizer.load(published("dream").architecture, files, "there")
    assert made.plain("cat dog") == [28, 26, 3, 14, 6]
    assert made.plain("<|mask|>") == [58]


def test_a_tokenizer_of_more_ids_than_the_network_is_refused(folders: dict[Family, Path]) -> None:
    import attrs

    from dimo_dllm.tokenizer import ChatTokenizer

    from .conftest import published

    few = attrs.evolve(published("llada").architecture, columns=59, mask_id=56)
    files = {"tokenizer.json": folders["llada"] / "tokenizer.json"}
    with pytest.raises(CheckpointError, match="has the id 59, the network 59 ids"):
        ChatTokenizer.load(few, files, "there")


@torch.no_grad()
def test_guidance_hides_the_prompt_and_keeps_what_is_seen(teacher: Teachers) -> None:
    io, made = tensors("llada", "network_io"), teacher("llada", prompt=4)
    x, attend, prompt = io["guidance.tokens"], io["guidance.attention_mask"].bool(), io["guidance.prompt"]
    c = {"tokens": x, "valid": ~prompt, "attend": attend}
    null = made.null_condition(c)
    hidden = torch.where(null["valid"], x, null["tokens"])
    assert torch.equal(hidden, io["guidance.tokens_uncond"])
    network = made.network().double()
    for w in (0.5, 2.0):
        logits = guided(made, network, x, c, mask_ratio=torch.ones(4), scale=torch.full((4,), w + 1))
        z, expected = logits(None), io[f"guidance.logits_{w}"].double()
        assert torch.equal(z == -torch.inf, (~made.tokens.allowed).expand_as(z))
        finite = z.isfinite()
        torch.testing.assert_close(z[finite], expected[finite], atol=1e-6, rtol=0)


@each
def test_answers_become_tokens_and_lines(family: Family, teacher: Teachers) -> None:
    made = teacher(family)
    c = made.encode_conditions(["a cat", "a dog", "no"])
    lines = ("the mat\n1", "", "the dog ate the cat and the mat")
    x = made.tokenize(Examples(lines=lines, texts=("", "", "")), c)
    eos = made.architecture.eos_id
    assert torch.equal(x[:, :6], c["tokens"][:, :6]), "the prompt is part of it"
    assert x[1, 6:].tolist() == [eos] * 8, "filled up with the end of text"
    assert eos not in x[2, 6:].tolist(), "cut"
    assert made.preview(x, c).lines[:2] == ("the mat↵1", "")
    assert torch.equal(made.tokenize(Examples(tokens=x), c), x)
    x[0, 6:8] = torch.tensor([7, made.tokenizer.end[-1]])
    assert len(made.preview(x, c).lines[0]) <= 2, "an answer ends with its turn"


def test_a_teacher_without_a_folder_says_what_is_needed() -> None:
    with pytest.raises(CheckpointError, match=r"--teacher.path"):
        Llada().check()


@each
def test_everything_is_looked_for_before_a_run(family: Family, teacher: Teachers, tmp_path: Path) -> None:
    made = teacher(family)
    made.check()
    for path in Path(made.path).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").unlink()
    other: Any = type(made)(path=str(tmp_path))
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        other.check()


@each
def test_provenance_names_every_file(family: Family, teacher: Teachers) -> None:
    found = dict(teacher(family).provenance())
    shards = (
        ["model.safetensors"]
        if family == "dream"
        else [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    )
    assert set(found) == {"folder", "config.json", "tokenizer.json", "tokenizer_config.json", *shards}


@each
def test_advice_against_whole_networks_in_bf16(family: Family, teacher: Teachers) -> None:
    made = teacher(family)
    config = {"teacher": {"name": family}, "generator": {"name": "one_step"}, "auxiliary": {"name": "lora"}}
    (told,) = made.advise(config)
    assert "--generator lora" in told
    assert made.advise({**config, "teacher": {"dtype": "fp32"}}) == ()


def test_advice_is_about_what_the_objective_uses(teacher: Teachers) -> None:
    def told(preset: str) -> list[str]:
        options = {"teacher": teacher("llada", dtype="bf16"), "auxiliary": "denoiser"}
        options |= {"conditions": {"url": "unused"}, "out": "unused"}
        if preset == "certainty":
            options["data"] = {"name": "samples", "path": "unused"}
        return [*resolve_job(options, preset=preset).advice()]

    (line,) = told("dimo")
    assert line.startswith("the auxiliary is a whole network in bf16")
    assert told("certainty") == [], "it has no auxiliary"

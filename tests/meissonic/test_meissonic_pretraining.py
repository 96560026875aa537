"""A small Meissonic from captioned pictures: fits, creating, saving, resuming, distilling."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import attrs
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from dimo_core.choice import Choice
from dimo_core.config.distil import resolve_job
from dimo_core.draws import Draws
from dimo_core.errors import Interrupted, UsageError
from dimo_core.jobs.distil import distill
from dimo_core.method.masked_modelling import DenoisePhase, MaskedModelling
from dimo_core.objective import Batch
from dimo_core.registry import Registry
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan
from dimo_core.testing import check_teacher
from dimo_meissonic.creation import new_parts
from dimo_meissonic.fitting import Batches
from dimo_meissonic.image_fit import fit_images, image_config
from dimo_meissonic.images import ImageTokenizer
from dimo_meissonic.pretraining import ImageFit, Pretraining, TextFit
from dimo_meissonic.teacher import Meissonic
from dimo_meissonic.text import PromptEncoder, load_tokenizer, load_tower
from dimo_meissonic.text_fit import contrast, encode_words, fit_text, tower_config
from dimo_meissonic.vocabulary import learn_vocabulary

IMAGES = ImageFit(codes=16, channels=8, steps=3, batch_size=8)
TEXT = TextFit(width=16, heads=2, layers=2, steps=3, batch_size=8)
TINY = Pretraining(
    heads=2, rope=(4, 2, 2), layers=1, single_layers=1, vocabulary=2048, images=IMAGES, text=TEXT
)
PLAN = EvaluationPlan(
    metrics=(Choice("composition"),),
    best="-overall",
    conditions=Choice("scene-prompts"),
    samples=10,
    steps=(2,),
)


def test_a_transformer_of_more_layers_than_any_machine_has_room_for_names_its_options() -> None:
    one = Examples(images=torch.zeros(1, 3, 4, 4).byte(), texts=("a red digit",))
    with pytest.raises(UsageError, match=r"--model.single_layers, .*: 20,001 layers; 10,000 is the most"):
        new_parts(attrs.evolve(TINY, single_layers=20000), one, evaluation=None, seed=0)


@pytest.fixture(scope="module")
def examples() -> Examples:
    found: Examples = Registry.discover().load("data", "scenes")(scenes=64, held_out=16).load("teacher")
    return found


def created(examples: Examples, seed: int = 0, **changed: Any) -> Meissonic:
    return Meissonic.create(attrs.evolve(TINY, **changed), examples, evaluation=PLAN, seed=seed)


@pytest.fixture(scope="module")
def teacher(examples: Examples) -> Meissonic:
    return created(examples)


def test_each_word_of_the_captions_is_one_token(examples: Examples) -> None:
    tokenizer = load_tokenizer(learn_vocabulary(examples.texts, entries=2048), "here")
    words = {word for text in examples.texts for word in text.split()}
    assert len(words) > 25
    assert {word: 3 for word in words} == {word: len(tokenizer(word).input_ids) for word in words}
    text = max(examples.texts, key=len)
    assert text == tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", ["zebra", "Ein Käfer, 12 %!", "猫"])
def test_words_that_no_caption_has_are_encoded_byte_by_byte(text: str, examples: Examples) -> None:
    files = learn_vocabulary(examples.texts, entries=2048)
    tokenizer, end = load_tokenizer(files, "here"), len(json.loads(files["vocab.json"])) - 1
    ids = tokenizer(text).input_ids
    assert end not in ids[1:-1]  # which stands for what is unknown, too
    again = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.lower().replace(" ", "") == again.replace(" ", "")


def test_a_vocabulary_has_no_more_entries_than_allowed_and_is_the_same_again(examples: Examples) -> None:
    files = learn_vocabulary(examples.texts, entries=530)
    assert 530 == len(json.loads(files["vocab.json"]))
    assert 16 == len(files["merges.txt"].decode().splitlines()) - 1
    assert files == learn_vocabulary(examples.texts, entries=530)
    assert 514 == len(json.loads(learn_vocabulary(examples.texts, entries=1)["vocab.json"]))


def test_batches_go_through_all_rows_in_epochs_of_their_own_order() -> None:
    batches = Batches(10, 5, seed=1, name="a")
    first, second = (torch.cat([batches.rows(2 * epoch), batches.rows(2 * epoch + 1)]) for epoch in range(2))
    assert list(range(10)) == sorted(first.tolist()) == sorted(second.tolist())
    assert first.tolist() != second.tolist()
    assert batches.rows(0).tolist() == first[:5].tolist()
    assert 3 == len(Batches(3, 5, seed=1, name="a").rows(7))


@pytest.mark.slow
def test_the_image_tokenizer_learns_and_gives_the_ground_one_code(examples: Examples) -> None:
    options = attrs.evolve(IMAGES, steps=150, batch_size=16, lr=5e-3)
    tensors = fit_images(options, examples.images, seed=0)
    tokenizer = ImageTokenizer(image_config(options), tensors, (8, 8), "here")
    x = examples.images / 255
    codes = tokenizer.encode(x)
    assert float(F.mse_loss(tokenizer.decode(codes), x)) < 0.6 * float(x.var(0).mean())
    assert len(codes.unique()) >= 8
    patches = F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
    ground = codes[(patches == patches[0, 0]).all(-1)]
    assert len(ground) > 0.5 * codes.numel()
    assert ground.bincount().max() > 0.95 * len(ground)


@pytest.mark.parametrize("shape", [(4, 1, 16, 16), (4, 3, 15, 16), (4, 3, 16, 15)])
def test_images_that_do_not_divide_into_tokens_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"--model\.images\.factor"):
        fit_images(IMAGES, torch.zeros(shape, dtype=torch.uint8), seed=0)


def test_contrast_is_clips_loss_and_counts_equal_captions_as_right() -> None:
    z = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = torch.arange(4)
    expected = (F.cross_entropy(z, own) + F.cross_entropy(z.T, own)) / 2
    torch.testing.assert_close(contrast(z, own), expected)
    alike = torch.tensor([[50.0, 50.0, 0.0], [50.0, 50.0, 0.0], [0.0, 0.0, 50.0]])
    assert float(contrast(alike, torch.tensor([0, 0, 1]))) == pytest.approx(2 / 3 * torch.tensor(2.0).log())
    assert float(contrast(alike, torch.tensor([0, 1, 2]))) == pytest.approx(2 / 3 * torch.tensor(2.0).log())
    assert float(contrast(alike, torch.tensor([0, 1, 0]))) > 10


def test_the_text_tower_learns_the_order_of_words() -> None:
    captions = [f"{a} left of {b}" for a, b in (("red", "blue"), ("blue", "red"))] * 8
    images = torch.zeros(16, 3, 16, 16, dtype=torch.uint8)
    images[0::2, 0, :, :8], images[0::2, 2, :, 8:] = 255, 255
    images[1::2, 2, :, :8], images[1::2, 0, :, 8:] = 255, 255
    files = learn_vocabulary(captions, entries=600)
    ids = encode_words(load_tokenizer(files, ""), captions, 6)
    options = attrs.evolve(TEXT, steps=60, lr=5e-3)
    config = tower_config(options, vocabulary=json.loads(files["vocab.json"]), length=6, width=16)
    tensors = fit_text(options, config, ids, images, seed=0)
    encoder = PromptEncoder(
        load_tower(config, tensors, ""), load_tokenizer(files, ""), device=torch.device("cpu"), remember=2
    )
    words, pooled = encoder(captions[:2])
    assert float(F.cosine_similarity(pooled[0], pooled[1], dim=0)) < 0.5
    assert float((words[0] - words[1])[3:].norm(dim=-1).min()) > 0.1


def test_a_new_teacher_keeps_the_contract(teacher: Meissonic) -> None:
    check_teacher(teacher, ["a red seven", "a blue three next to a green nine"])
    assert ((8, 8), 16, 16) == (teacher.tokens.grid, teacher.tokens.codes, teacher.tokens.mask_id)
    assert [16.0, 16.0, 0.0, 0.0, 6.0] == teacher.encode_conditions(["a"])["micro"][0].tolist()


def test_on_a_device_it_is_the_same_teacher_in_memory(teacher: Meissonic) -> None:
    placed = teacher.on(torch.device("cpu"))
    assert ("auto", "cpu") == (teacher.text_device, placed.text_device)
    assert teacher.provenance() == placed.provenance()
    c, d = teacher.encode_conditions(["a red seven"]), placed.encode_conditions(["a red seven"])
    assert torch.equal(c["text"], d["text"])


def test_the_longest_caption_fits_in(teacher: Meissonic, examples: Examples) -> None:
    longest = max(len(text.split()) for text in examples.texts)
    assert longest + 2 == teacher.prompts.length


def test_a_seed_gives_the_same_teacher_to_the_last_bit_and_another_seed_another(
    teacher: Meissonic, examples: Examples
) -> None:
    again, other = created(examples), created(examples, seed=1)
    assert teacher.provenance() == again.provenance()
    files = [name for name in teacher.provenance() if name.endswith(".safetensors")]
    assert 3 == len(files)
    assert not any(teacher.provenance()[name] == other.provenance()[name] for name in files)


def test_creating_leaves_the_global_generator_alone(examples: Examples) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    created(examples)
    assert expected.tolist() == torch.rand(2).tolist()


def test_images_without_captions_are_refused(examples: Examples) -> None:
    bare = attrs.evolve(examples, texts=())
    with pytest.raises(UsageError, match="--data scenes"):
        new_parts(TINY, bare, evaluation=None, seed=0)


@pytest.mark.parametrize("guidance", [float("inf"), float("nan"), -1.0])
def test_a_guidance_that_no_sampler_takes_is_refused_before_the_training(guidance: float) -> None:
    with pytest.raises(ValueError, match="guidance"):
        Pretraining(guidance=guidance)


def test_odd_shares_of_a_head_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        Pretraining(rope=(3, 2, 3))


def test_the_null_condition_is_the_empty_prompt(teacher: Meissonic) -> None:
    c = teacher.encode_conditions(["a red seven"] * 2)
    null, empty = teacher.null_condition(c), teacher.encode_conditions([""] * 2)
    assert all(torch.equal(null[name], empty[name]) for name in c)
    assert not torch.equal(c["text"], empty["text"])


def gradient(teacher: Meissonic, captions: list[str], share: float) -> torch.Tensor:
    network = teacher.network().train()
    options = MaskedModelling(label_dropout=share, masking="exact")
    tokens = torch.arange(256).view(4, 64) % 16
    batch = Batch(conditions=teacher.encode_conditions(captions), tokens=tokens)
    DenoisePhase(options, teacher, network).accumulate(batch, Draws(seed=0, total=4))
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_dropped_captions_train_the_empty_prompt(teacher: Meissonic) -> None:
    captions = ["a red seven", "a blue two", "the number one", "a four in green"]
    dropped, empty = gradient(teacher, captions, 1.0), gradient(teacher, [""] * 4, 0.0)
    assert torch.equal(dropped, empty)
    assert not torch.equal(dropped, gradient(teacher, captions, 0.0))


def test_a_saved_teacher_is_the_same_teacher(teacher: Meissonic, tmp_path: Path) -> None:
    network = teacher.network()
    with torch.no_grad():
        network.get_parameter("project_to_hidden.weight").add_(0.01)
    teacher.save(str(tmp_path / "t"), network, {"pretraining": {"seed": 0}})
    other = Meissonic(checkpoint=str(tmp_path / "t"))
    assert all(torch.equal(t, other.network().state_dict()[n]) for n, t in network.state_dict().items())
    prompts = ["a red seven", "zebra"]
    c, d = teacher.encode_conditions(prompts), other.encode_conditions(prompts)
    assert all(torch.equal(c[name], d[name]) for name in c)
    x = torch.arange(128).view(2, 64) % 16
    assert torch.equal(teacher.decode(x, c), other.decode(x, d))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(teacher.encode(images, c), other.encode(images, d))
    assert (teacher.tokens, PLAN) == (other.tokens, other.evaluation())
    one, two = teacher.provenance(), other.provenance()
    changed = {name for name in one if one[name] != two[name]}
    assert {"folder", "transformer/diffusion_pytorch_model.safetensors"} == changed
    assert teacher.tokenizer_identity() == other.tokenizer_identity()
    card = yaml.safe_load((tmp_path / "t" / "teacher.yaml").read_text())
    assert (["format", "small", ""], {"seed": 0}) == (
        [next(iter(card)), card["recipes"], card["negative_prompt"]],
        card["pretraining"],
    )


def test_a_card_is_kept_when_a_teacher_is_saved_again(teacher: Meissonic, tmp_path: Path) -> None:
    teacher.save(str(tmp_path / "one"), teacher.network(), {"pretraining": 1})
    one = Meissonic(checkpoint=str(tmp_path / "one"))
    one.save(str(tmp_path / "two"), one.network(), {"converted_from": 2})
    cards = [yaml.safe_load((tmp_path / name / "teacher.yaml").read_text()) for name in ("one", "two")]
    assert cards[0] | {"converted_from": 2} == cards[1]


def test_a_small_teacher_has_presets_of_its_scale_and_the_prompts_of_its_data(teacher: Meissonic) -> None:
    recipes = teacher.recipes()
    assert ["fast", "paper"] == list(recipes)[:2]
    assert not any("conditions" in recipe for recipe in recipes.values())
    assert "scene-prompts" == resolve_job({"teacher": teacher, "out": "unused"}).config["conditions"]["name"]
    assert ["shared", "fresh"] == [recipes[name]["objective"]["rollout"] for name in ("fast", "paper")]
    assert {} == teacher.samplings()
    assert () == teacher.advise({"divergence": {"name": "rkl"}})


def test_guidance_goes_into_the_plan(examples: Examples) -> None:
    plan = created(examples, guidance=3.0).evaluation()
    assert plan is not None
    assert Choice("constant", {"scale": 3.0}) == plan.guidance
    parts = new_parts(TINY, examples, evaluation=None, seed=0)
    assert parts.published.card["evaluation"] is None


ARGUMENTS: dict[str, Any] = {
    "teacher": "meissonic",
    "data": {"name": "scenes", "scenes": 64, "held_out": 16},
    "model": attrs.asdict(TINY),
    "train": {"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "sample_every": 0},
    "device": "cpu",
}


def pretrained(out: Path, monkeypatch: pytest.MonkeyPatch, *, stop_at: int = 0) -> Path:
    """Pretrain; with ``stop_at`` stopped after so many steps, and resumed."""
    from dimo_core.config.pretrain import PretrainDraft
    from dimo_core.engine.loop import Engine
    from dimo_core.jobs import pretrain

    monkeypatch.setattr(pretrain, "RunRows", Mock())  # a table of what was trained four steps
    monkeypatch.setattr(pretrain, "write_table", Mock())
    job = PretrainDraft.resolve({**ARGUMENTS, "out": str(out)})
    if stop_at:
        whole = Engine.take_step

        def stopped(self: Engine, watch: bool = False) -> dict[str, torch.Tensor]:
            if self.step == stop_at:
                raise Interrupted("stop")
            return whole(self, watch)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "take_step", stopped)
            with pytest.raises(Interrupted):
                pretrain.pretrain(job)
        pretrain.pretrain(job, resume=True)
    else:
        pretrain.pretrain(job)
    return out / "teacher"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.*:UserWarning")
def test_a_pretraining_that_was_stopped_ends_bitwise_alike_and_can_be_distilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pretrained(tmp_path / "a", monkeypatch)
    two = pretrained(tmp_path / "b", monkeypatch, stop_at=3)
    for path in sorted(one.rglob("*.safetensors")):
        expected, actual = load_file(path), load_file(two / path.relative_to(one))
        assert expected.keys() == actual.keys()
        assert [] == [name for name in expected if not torch.equal(expected[name], actual[name])]
    result = distill(
        teacher={"name": "meissonic", "checkpoint": str(one)},
        train={"steps": 2, "batch_size": 4, "sample_every": 0, "log_every": 1},
        eval={"samples": 10, "steps": [1]},
        out=str(tmp_path / "run"),
        device="cpu",
    )
    assert result.table is not None
    assert ["teacher, 1 step", "generator, 1 step"] == [row.name for row in result.table.rows[:2]]
    assert {"overall"} <= set(result.table.rows[1].metrics)

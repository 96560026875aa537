"""The published files: read without running anything in them, converted, distilled and sampled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from dimo_core.cli import main as dimo
from dimo_core.config.distil import resolve_job
from dimo_core.errors import CheckpointError, ConfigError, NumericalError
from dimo_core.files.folder import Folder
from dimo_core.files.foreign import read_foreign
from dimo_core.files.generator_folder import load_generator, read_card
from dimo_core.testing import check_teacher
from dimo_maskgit.parts import infer_architecture, is_weights_file
from dimo_maskgit.pretraining import Pretraining
from dimo_maskgit.teacher import MaskGit
from dimo_maskgit.transformer import PUBLISHED, Architecture, MaskTransformer

Golden = Any

MODEL_YAML = {
    "model": {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "embed_dim": 6,
            "n_embed": 16,
            "ddconfig": {
                "double_z": False,
                "z_channels": 8,
                "resolution": 16,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 32,
                "ch_mult": [1, 1, 2],
                "num_res_blocks": 1,
                "attn_resolutions": [4],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"},
        },
    }
}
"""The VQGAN of the golden values, in taming's words."""


@attrs.frozen
class Published:
    """Files as the authors publish them, with the weights of the golden values."""

    folder: Path
    network: Path
    vqgan: Path
    generator: Path

    def options(self, **options: Any) -> dict[str, Any]:
        return {"checkpoint": str(self.network), "tokenizer": str(self.vqgan), "heads": 4, **options}

    def arguments(self, **options: Any) -> list[str]:
        return [
            x for name, value in self.options(**options).items() for x in (f"--teacher.{name}", str(value))
        ]


@pytest.fixture
def published(golden: Golden, tmp_path: Path) -> Published:
    weights, vqgan = golden("transformer_weights"), golden("vqgan_weights")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(t.clone()) for t in weights.values()])
    container = {
        "iter": 755_200,
        "global_epoch": 300,
        "model_state_dict": weights,
        "optimizer_state_dict": optimizer.state_dict(),
    }
    files = Published(
        folder=tmp_path,
        network=tmp_path / "MaskGIT_ImageNet_256.pth",
        vqgan=tmp_path / "VQGAN" / "last.ckpt",
        generator=tmp_path / "pytorch_model.bin",
    )
    torch.save(container, files.network)
    files.vqgan.parent.mkdir()
    losses = {
        "loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1),
        "loss.discriminator.main.0.bias": torch.zeros(2),
    }
    torch.save({"epoch": 1, "state_dict": {n: t.float() for n, t in vqgan.items()} | losses}, files.vqgan)
    (files.vqgan.parent / "model.yaml").write_text(yaml.safe_dump(MODEL_YAML))
    generated = torch.Generator().manual_seed(5)
    torch.save(
        {n: t + 0.01 * torch.randn(t.shape, generator=generated) for n, t in weights.items()}, files.generator
    )
    return files


def same(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> list[str]:
    assert expected.keys() == actual.keys()
    return [name for name in expected if not torch.equal(expected[name], actual[name])]


def test_a_teacher_in_published_files_is_the_reference_exactly(published: Published, golden: Golden) -> None:
    teacher = MaskGit(**published.options(mask_logit="keep"))
    io, images = golden("transformer_io"), golden("vqgan_io")
    network = teacher.network()
    z = network.logits(io["tokens"].flatten(1), io["labels"], mask_ratio=torch.zeros(4))
    torch.testing.assert_close(z, io["logits_cond"], atol=2e-5, rtol=0)
    decoded = teacher.decode(images["codes"].flatten(1), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(decoded, (images["decoded"] / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)
    encoded = teacher.encode(images["image"].float() / 2 + 0.5, torch.zeros(2, dtype=torch.long))
    assert torch.equal(images["encoded_codes"].flatten(1), encoded)
    assert (16, 5) == (teacher.tokens.codes, len(teacher.conditioning.classes))


def test_a_teacher_in_published_files_passes_the_conformance_kit(published: Published) -> None:
    check_teacher(MaskGit(**published.options()), [0, "4", 2])


def test_converted_files_are_the_same_teacher_and_need_no_options(published: Published) -> None:
    out = published.folder / "converted"
    assert dimo(["convert", "--teacher", "maskgit", *published.arguments(), "--out", str(out)]) == 0
    original, converted = MaskGit(**published.options()), MaskGit(checkpoint=str(out))
    assert [] == same(original.network().state_dict(), converted.network().state_dict())
    assert [] == same(original._tokenizer.state_dict(), converted._tokenizer.state_dict())
    assert original.architecture == converted.architecture
    assert original.conditioning == converted.conditioning
    card = yaml.safe_load((out / "teacher.yaml").read_text())
    assert read_foreign(str(published.network)).sha256 == card["converted_from"]["network.safetensors"]

    again = published.folder / "again"
    assert dimo(["convert", "--teacher.checkpoint", str(out), "--out", str(again)]) == 0
    assert all(
        (out / name).read_bytes() == (again / name).read_bytes()
        for name in ("network.safetensors", "tokenizer.safetensors")
    )


def test_the_published_generator_converts_and_samples(published: Published) -> None:
    teacher, out = published.folder / "converted", published.folder / "generator"
    assert dimo(["convert", *published.arguments(), "--out", str(teacher)]) == 0
    generator = ["--generator.init", str(published.generator), "--generator.temperature", "2"]
    assert dimo(["convert", "--teacher.checkpoint", str(teacher), *generator, "--out", str(out)]) == 0
    _, loaded = load_generator(str(out))
    weights = read_foreign(str(published.generator)).state_dict()
    assert [] == same(weights, loaded.backbone.state_dict())
    card = read_card(Folder(str(out)))
    assert (0.6, 0.1, 2.0) == tuple(
        card["generator"][name] for name in ("r_init", "sigma_init", "temperature")
    )

    drawn = published.folder / "drawn"
    assert (
        dimo(
            ["sample", str(out), "--count", "6", "--conditions", "3", "--out", str(drawn), "--device", "cpu"]
        )
        == 0
    )
    lines = [json.loads(line) for line in (drawn / "samples.jsonl").read_text().splitlines()]
    assert 6 == len(lines)
    assert all(len(line["tokens"]) == 16 and max(line["tokens"]) < 16 for line in lines)
    assert 7 == len(list(drawn.glob("*.png")))


def test_published_files_distil_and_a_run_can_start_from_the_published_generator(
    published: Published,
) -> None:
    out = published.folder / "run"
    given = ["--steps", "2", "--batch-size", "4", "--train.precision", "fp32", "--train.log_every", "1"]
    start = ["--generator.init", str(published.generator), "--device", "cpu", "--out", str(out)]
    assert dimo(["run", "--preset", "paper", *published.arguments(), *given, *start]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert 2 == len(lines)
    assert dimo(["sample", str(out), "--count", "4", "--device", "cpu"]) == 0


def test_a_file_without_its_tokenizer_says_what_is_missing(published: Published, capsys: Any) -> None:
    assert dimo(["run", "--teacher.checkpoint", str(published.network), "--teacher.heads", "4"]) == 1
    said = capsys.readouterr().err
    for part in (
        "MaskGIT_ImageNet_256.pth",
        "last.ckpt",
        "model.yaml",
        "--teacher.tokenizer",
        "llvictorll/Maskgit-pytorch",
    ):
        assert part in said


@pytest.mark.parametrize("name", ["gone.pth", "gone"])
def test_missing_weights_are_named(published: Published, name: str) -> None:
    options = published.options() if name.endswith(".pth") else {}
    with pytest.raises(CheckpointError, match=name):
        MaskGit(**{**options, "checkpoint": str(published.folder / name)}).network()


def test_a_tokenizer_folder_without_one_says_what_is_expected(published: Published) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer in(.|\n)*last\.ckpt"):
        MaskGit(**published.options(tokenizer=str(published.folder))).network()


def test_the_number_of_heads_is_never_guessed(published: Published) -> None:
    with pytest.raises(ConfigError, match=r"No tensor tells its number of attention heads.*--teacher\.heads"):
        MaskGit(**published.options(heads=None)).network()
    with pytest.raises(ConfigError, match="not divisible by heads 5"):
        MaskGit(**published.options(heads=5)).network()


def test_the_published_network_has_its_heads_and_another_number_is_refused() -> None:
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in MaskTransformer(PUBLISHED, 1025).state_dict().items()}
    assert PUBLISHED == infer_architecture(shapes, 1024, None, "a file")
    assert PUBLISHED == infer_architecture(shapes, 1024, 16, "a file")
    with pytest.raises(ConfigError, match=r"--teacher\.heads 8 is wrong .* has 16 heads"):
        infer_architecture(shapes, 1024, 8, "a file")
    with pytest.raises(CheckpointError, match=r"does not fit .* the 16384 codes"):
        infer_architecture(shapes, 16384, None, "a file")


def test_the_published_network_has_305_tensors_and_174160874_parameters() -> None:
    with torch.device("meta"):
        tensors = MaskTransformer(PUBLISHED, 1024).state_dict()
    assert (305, 174_160_874) == (len(tensors), sum(t.numel() for t in tensors.values()))


def test_a_network_of_another_grid_scales_the_images_of_its_tokenizer(published: Published) -> None:
    """The published networks for 256 and for 512 pixels share one VQGAN."""
    wide = Architecture(width=32, depth=1, heads=4, mlp=64, dropout=0.1, grid=8, codes=16, classes=5)
    torch.save(MaskTransformer(wide, 16).state_dict(), published.network)
    teacher, c = MaskGit(**published.options()), torch.zeros(2, dtype=torch.long)
    images = teacher.decode(torch.randint(16, (2, 64)), c)
    assert (2, 3, 32, 32) == images.shape
    assert (2, 64) == teacher.encode(images, c).shape
    teacher.save(str(published.folder / "wide"), teacher.network(), {})
    assert torch.equal(
        teacher.encode(images, c), MaskGit(checkpoint=str(published.folder / "wide")).encode(images, c)
    )


def test_options_of_a_file_are_refused_for_a_folder(published: Published) -> None:
    with pytest.raises(ConfigError, match=r"--teacher\.heads goes with a weights file"):
        MaskGit(checkpoint=str(published.folder), heads=4).recipes()


def test_a_file_of_another_model_is_named_with_what_it_holds(published: Published) -> None:
    other = published.folder / "other.safetensors"
    save_file({"conv.weight": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match=r"no.*MaskGIT-pytorch|not hold a MaskGIT(.|\n)*conv\.weight"):
        MaskGit(**published.options(checkpoint=str(other))).network()


def test_safetensors_and_prefixed_names_load_too(published: Published, golden: Golden) -> None:
    weights = golden("transformer_weights")
    prefixed = published.folder / "prefixed.safetensors"
    save_file({f"_orig_mod.module.{name}": tensor for name, tensor in weights.items()}, prefixed)
    teacher = MaskGit(**published.options(checkpoint=str(prefixed)))
    assert [] == same(weights, teacher.network().state_dict())


def test_files_load_from_urls_through_the_cache(
    published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    store = Folder("memory://published-maskgit")
    for name in ("MaskGIT_ImageNet_256.pth", "VQGAN/last.ckpt", "VQGAN/model.yaml"):
        store.write(name, (published.folder / name).read_bytes())
    options = {
        "checkpoint": store.path("MaskGIT_ImageNet_256.pth"),
        "tokenizer": store.path("VQGAN"),
        "heads": 4,
    }
    first = MaskGit(**options)
    assert [] == same(MaskGit(**published.options()).network().state_dict(), first.network().state_dict())
    store.remove("MaskGIT_ImageNet_256.pth")
    store.remove("VQGAN", "last.ckpt")
    again = MaskGit(**{**options, "tokenizer": store.path("VQGAN", "last.ckpt")})
    assert [] == same(first.network().state_dict(), again.network().state_dict())


def test_class_names_are_read_and_counted(published: Published) -> None:
    names = published.folder / "names.txt"
    names.write_text("tench\ngoldfish\nshark\nray\nhen\n")
    teacher = MaskGit(**published.options(class_names=str(names)))
    assert ("tench", "goldfish", "shark", "ray", "hen") == teacher.conditioning.classes
    names.write_text("tench\ngoldfish\n")
    with pytest.raises(ConfigError, match=r"holds 2 class names.*has 5 classes"):
        MaskGit(**published.options(class_names=str(names))).recipes()


def test_pretraining_takes_the_published_tokenizer(published: Published, golden: Golden) -> None:
    from dimo_core.sources import Examples

    examples = Examples(
        images=torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8),
        labels=torch.tensor([0, 1, 0, 1]),
        classes=("a", "b"),
    )
    options = Pretraining(width=16, depth=1, heads=2, mlp=16, tokenizer=str(published.vqgan))
    made = MaskGit.create(options, examples, evaluation=None, seed=0)
    assert (16, (4, 4)) == (made.tokens.codes, made.tokens.grid)
    made.save(str(published.folder / "made"), made.network(), {})
    again = MaskGit(checkpoint=str(published.folder / "made"))
    images, c = golden("vqgan_io")["image"].float() / 2 + 0.5, torch.zeros(2, dtype=torch.long)
    assert torch.equal(made.encode(images, c), again.encode(images, c))


@pytest.mark.parametrize("name", ["decoder.conv_in.weight", "quantize.embedding.weight"])
def test_a_tokenizer_that_is_not_finite_is_neither_converted_nor_used(
    published: Published, capsys: Any, name: str
) -> None:
    content = torch.load(published.vqgan)
    content["state_dict"][name].view(-1)[3] = torch.nan
    torch.save(content, published.vqgan)
    out = published.folder / "converted"
    assert dimo(["convert", *published.arguments(), "--out", str(out)]) == 1
    assert "the tokenizer of" in (told := capsys.readouterr().err)
    assert "1 tensors of its weights hold NaN or infinity" in told
    assert not out.exists()
    teacher = MaskGit(**published.options())
    with pytest.raises(NumericalError, match="the tokenizer of"):
        teacher.decode(torch.zeros(1, 16, dtype=torch.long), torch.zeros(1, dtype=torch.long))


def test_a_converted_folder_is_never_overwritten(published: Published, capsys: Any) -> None:
    out = published.folder / "converted"
    out.mkdir()
    (out / "slurm-1.out").write_text("a log is no hindrance")
    assert dimo(["convert", *published.arguments(), "--out", str(out)]) == 0
    (out / "teacher.yaml").rename(out / "mine.txt")
    for name in ("network", "tokenizer"):
        (out / f"{name}.safetensors").unlink()
    assert dimo(["convert", *published.arguments(), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert ["mine.txt", "slurm-1.out"] == sorted(path.name for path in out.iterdir())


def test_a_generator_without_a_file_to_convert_is_refused(published: Published, capsys: Any) -> None:
    out = ["--out", str(published.folder / "g")]
    assert dimo(["convert", *published.arguments(), "--generator.temperature", "2", *out]) == 2
    assert "--generator.init names it" in capsys.readouterr().err


def generator_of(published: Published, teacher: Path, out: Path) -> None:
    init = ["--generator.init", str(published.generator)]
    assert dimo(["convert", "--teacher.checkpoint", str(teacher), *init, "--out", str(out)]) == 0


def test_a_teachers_network_that_was_changed_is_refused_where_it_is_read(published: Published) -> None:
    """A generator has weights of its own, and needs no more than the tokenizer: docs/formats.md says so."""
    old, out = (published.folder / name for name in ("old", "generator"))
    assert dimo(["convert", *published.arguments(), "--out", str(old)]) == 0
    generator_of(published, old, out)
    for name in ("network", "tokenizer"):
        with (old / f"{name}.safetensors").open("ab") as file:
            file.write(b"more")
    teacher, _ = load_generator(str(out))
    with pytest.raises(CheckpointError, match=r"network\.safetensors is damaged"):
        teacher.network()
    with pytest.raises(CheckpointError, match=r"tokenizer\.safetensors is damaged"):
        teacher.decode(torch.zeros(1, teacher.tokens.length).long(), torch.zeros(1).long())


def test_a_moved_teacher_is_known_by_its_content(published: Published) -> None:
    old, new, out = (published.folder / name for name in ("old", "new", "generator"))
    assert dimo(["convert", *published.arguments(), "--out", str(old)]) == 0
    generator_of(published, old, out)
    old.rename(new)
    with pytest.raises(CheckpointError, match=r"generator\.yaml: no teacher in .*write its new place"):
        load_generator(str(out))
    card = (out / "generator.yaml").read_text()
    (out / "generator.yaml").write_text(card.replace(f"checkpoint: {old}", f"checkpoint: {new}"))
    load_generator(str(out))
    other = MaskGit(checkpoint=str(new))
    network = other.network()
    with torch.no_grad():
        network.bias += 1
    other.save(str(published.folder / "other"), network, {})
    moved = (
        (out / "generator.yaml")
        .read_text()
        .replace(f"checkpoint: {new}", f"checkpoint: {published.folder / 'other'}")
    )
    (out / "generator.yaml").write_text(moved)
    with pytest.raises(CheckpointError, match=r"not the one this generator was trained with: .*network"):
        load_generator(str(out))


def test_a_generator_of_the_published_files_is_one_of_the_converted_folder(published: Published) -> None:
    out, converted = published.folder / "generator", published.folder / "converted"
    init = ["--generator.init", str(published.generator)]
    assert dimo(["convert", *published.arguments(), *init, "--out", str(out)]) == 0
    assert dimo(["convert", *published.arguments(), "--out", str(converted)]) == 0
    card = yaml.safe_load((out / "generator.yaml").read_text())
    card["teacher"] = {"name": "maskgit", "checkpoint": str(converted)}
    (out / "generator.yaml").write_text(yaml.safe_dump(card))
    load_generator(str(out))


@pytest.mark.parametrize(
    ("option", "wrong", "message"),
    [
        ("checkpoint", "vqgan", r"That is a VQGAN, which --teacher\.tokenizer takes"),
        (
            "tokenizer",
            "generator",
            r"MaskGIT transformer, which --teacher\.checkpoint or --generator\.init takes",
        ),
    ],
)
def test_a_file_in_the_wrong_option_is_recognised(
    published: Published, option: str, wrong: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        MaskGit(**published.options(**{option: str(getattr(published, wrong))})).network()


@pytest.mark.parametrize("content", ["model: [", "model: {params: 3}"])
def test_a_damaged_model_yaml_is_named(published: Published, content: str) -> None:
    (published.vqgan.parent / "model.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.yaml"):
        MaskGit(**published.options()).network()


@pytest.mark.parametrize(
    "content", [b'["a", ', b"\xff\xfea", b"[%s]" % (b"9" * 5000), b"[" * 100_000], ids=[*"cudn"]
)
def test_damaged_class_names_are_named(published: Published, content: bytes) -> None:
    names = published.folder / "names.json"
    names.write_bytes(content)
    with pytest.raises(ConfigError, match=r"names\.json is no list of class names"):
        MaskGit(**published.options(class_names=str(names))).recipes()


def test_a_query_does_not_make_a_folder_of_a_file() -> None:
    assert is_weights_file("https://host/resolve/main/MaskGIT_ImageNet_256.pth?download=true")
    assert not is_weights_file("https://host/maskgit-256?revision=a.pth")
    assert is_weights_file("what?.pth")


def test_a_dry_run_misses_a_generator_to_start_from(published: Published, capsys: Any) -> None:
    gone = str(published.folder / "gone.bin")
    assert dimo(["run", *published.arguments(), "--generator.init", gone, "--dry-run"]) == 2
    assert f"no generator at {gone!r}" in capsys.readouterr().err


def test_nothing_is_converted_when_no_file_is_named(tmp_path: Path, capsys: Any) -> None:
    assert dimo(["convert", "--teacher", "maskgit", "--out", str(tmp_path / "out")]) == 2
    assert "nothing to convert" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_found_before_weights_are_read(
    published: Published, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> Any:
        raise AssertionError("weights are read")

    monkeypatch.setattr(MaskGit, "network", read)
    out = published.network / "below a file"
    assert dimo(["convert", *published.arguments(), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "cannot write" in said
    assert 1 == len(said.strip().splitlines())


PAGE = (Path(__file__).parents[2] / "docs" / "imagenet.md").read_text()


@pytest.mark.parametrize(("preset", "column"), [("paper", 2), ("fast", 3)])
def test_the_table_of_presets_says_what_a_preset_resolves_to(
    published: Published, preset: str, column: int
) -> None:
    config = resolve_job({"teacher": {"name": "maskgit", **published.options()}}, preset=preset).config
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    written = {row[0].strip("|` "): row[column - 1] for row in rows if "." in row[0]}
    assert 40 > len(written) > 30
    for path, text in written.items():
        value: Any = config
        for key in path.split("."):
            value = value[key]
        assert yaml.safe_load(text) == value, path

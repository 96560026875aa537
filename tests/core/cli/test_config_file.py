"""`dimo config`: a file is checked as its command would, and every value tells where it comes from."""

from pathlib import Path

import pytest
import yaml

from dimo_core.cli import main
from dimo_core.config.distil import resolve_job


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a few options."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"divergence": {"name": "jeffrey", "beta": 0.3}, "train": {"steps": 500}}))
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Value and origin by key."""
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[part.strip() for part in row if part.strip()] for row in rows]
    return {key: (value, origin) for key, value, origin in rows}


def test_every_value_tells_where_it_comes_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIMO_SEED", "4")
    assert main(["config", str(file), "--batch-size", "8", "--eval.steps", "[4, 1]"]) == 0
    found = printed(capsys)
    assert found["divergence"] == ("jeffrey", str(file))
    assert found["divergence.beta"] == ("0.3", str(file))
    assert found["train.steps"] == ("500", str(file))
    assert found["train.batch_size"] == ("8", "--batch-size")
    assert found["eval.steps"] == ("[4, 1]", "--eval.steps")
    assert found["seed"] == ("4", "DIMO_SEED")
    assert found["generator.r_init"] == ("0.6", "preset 'fast' of teacher 'maskgit'")
    assert found["sampler.gumbel"] == ("4.5", "the evaluation plan of teacher 'maskgit'")
    assert found["generator.top_k"] == ("0", "default of generator 'one_step'")
    assert found["train.keep_last"] == ("2", "default")
    assert (found["teacher"], found["preset"]) == (("maskgit", "default"), ("fast", "default"))


def test_nothing_is_left_out(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", str(file)]) == 0
    found, config = printed(capsys), dict(resolve_job(yaml.safe_load(file.read_text())).config)

    def flat(data: object, path: tuple[str, ...] = ()) -> dict[str, object]:
        if not isinstance(data, dict):
            return {".".join(path[:1] if path[1:] == ("name",) else path): data}
        return {k: v for name, inner in data.items() for k, v in flat(inner, (*path, name)).items()}

    assert {key: yaml.safe_load(value) for key, (value, _) in found.items()} == flat(config)


def test_the_configuration_of_another_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "how.yaml").write_text("sampler: {name: random-order}\nsteps: 4\n")
    assert main(["config", str(tmp_path / "how.yaml"), "--for", "sample"]) == 0
    found = printed(capsys)
    assert found["sampler"] == ("random-order", str(tmp_path / "how.yaml"))
    assert found["steps"] == ("4", str(tmp_path / "how.yaml"))
    assert main(["config", str(tmp_path / "how.yaml")]) == 2
    assert "steps" in capsys.readouterr().err


def test_all_mistakes_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("train: {keep_lost: 3}\ndivergence: {beta: x}\n")
    assert main(["config", str(tmp_path / "bad.yaml")]) == 2
    out, err = capsys.readouterr()
    assert "" == out
    assert "expected float, got 'x'" in err
    assert "Did you mean train.keep_last?" in err
    assert main(["config", str(tmp_path / "none.yaml")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_secrets_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret.yaml").write_text("out: s3://me:hunter2@bucket/run\n")
    assert main(["config", str(tmp_path / "secret.yaml")]) == 0
    assert "hunter2" not in capsys.readouterr().out

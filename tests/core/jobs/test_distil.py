"""A whole run from Python, on a tiny teacher without an evaluation plan."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from loguru import logger

from dimo_core.config.distil import resolve_job
from dimo_core.engine.alarms import alarm
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.errors import CheckpointError, StorageError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.owner import owned
from dimo_core.jobs import distil
from dimo_core.jobs.distil import RunResult, distill, run
from dimo_core.method.one_step import OneStep
from dimo_core.registry import Registry
from dimo_divergences import Jeffrey

QUICK = {"steps": 6, "batch_size": 8, "log_every": 2, "checkpoint_every": 3, "sample_every": 3}


def test_a_first_step_waits_for_no_figures() -> None:
    code = (
        "import sys, dimo_core.jobs.distil; print({'matplotlib.figure', 'jinja2', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "{'torch'}\n" == done.stdout


def test_a_remote_run_log_is_whole_at_the_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dimo_core.files.log.LATE", float("inf"))
    folder = Folder("memory://test-distil/run")
    with suppress(ZeroDivisionError), distil.log_file(folder):
        for text in ("one", "two", "three"):
            logger.info(text)
        assert 1 == folder.read("run.log").count(b"\n")
        raise ZeroDivisionError
    assert ["one", "two", "three"] == [
        line.split()[-1] for line in folder.read("run.log").decode().splitlines()
    ]
    Folder("memory://test-distil").remove()


def small_run(teacher: Any, out: Path, **options: Any) -> RunResult:
    given = {"divergence": Jeffrey(beta=0.2), "train": QUICK, "device": "cpu", **options}
    return distill(teacher=teacher, out=str(out), **given)


def test_a_run_leaves_everything_that_the_design_names(tiny_teacher: Any, tmp_path: Path) -> None:
    small_run(tiny_teacher, tmp_path / "run")
    expected = {"config.yaml", "metrics.jsonl", "run.log", "samples", "plots", "checkpoints", "generator"}
    assert expected | {"report.html"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert {"generator.yaml", "generator.safetensors"} == {
        p.name for p in (tmp_path / "run/generator").iterdir()
    }
    assert ["step_000000.txt", "step_000003.txt", "step_000006.txt"] == sorted(
        p.name for p in (tmp_path / "run/samples").iterdir()
    )
    assert [2, 4, 6] == [line["step"] for line in read_metrics(Folder(str(tmp_path / "run")))]


def test_the_same_run_twice_gives_the_same_weights(tiny_teacher: Any, tmp_path: Path) -> None:
    a, b = (small_run(tiny_teacher, tmp_path / name).generator.state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_seed_gives_other_weights(tiny_teacher: Any, tmp_path: Path) -> None:
    a, b = (small_run(tiny_teacher, tmp_path / str(s), seed=s).generator.state_dict() for s in (0, 1))
    assert not torch.equal(a["backbone.out.weight"], b["backbone.out.weight"])


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tiny_teacher: Any, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("results of a week")
    with pytest.raises(UsageError, match=r"is not empty\. Continue that run with --resume"):
        small_run(tiny_teacher, tmp_path)
    assert ["precious.txt"] == [path.name for path in tmp_path.iterdir()]


def test_runs_that_were_given_the_same_free_folder_take_one_each(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = resolve_job(
        {"teacher": tiny_teacher, "divergence": Jeffrey(beta=0.2), "train": QUICK, "device": "cpu"}
    )
    names = [run(job).folder.url for _ in range(2)]
    assert 2 == len(set(names))
    assert {job.out, job.out.replace("-1", "-2")} == set(names)
    assert all([2, 4, 6] == [line["step"] for line in read_metrics(Folder(name))] for name in names)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_another_process_writes_to_is_refused(
    tiny_teacher: Any, tmp_path: Path, resume: bool
) -> None:
    if resume:
        small_run(tiny_teacher, tmp_path / "run")
    with (
        owned(str(tmp_path / "run")),
        pytest.raises(UsageError, match=r"is being written to by process \d+ on "),
    ):
        small_run(tiny_teacher, tmp_path / "run", resume=resume)
    assert resume == (tmp_path / "run").exists()


def test_the_log_of_a_batch_system_is_no_run(tiny_teacher: Any, tmp_path: Path) -> None:
    (tmp_path / "logs" / "77").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    files = "slurm-12_3.out job.err job.o77 job.e77.1 77.log logs/a.out logs/77/b.err"
    for name in files.split():
        (tmp_path / name).write_text("log")
    small_run(tiny_teacher, tmp_path)
    assert "log" == (tmp_path / "slurm-12_3.out").read_text()


@pytest.mark.parametrize("name", ["run.log", "out", "model.o", "a.out.txt", "logs/out", "logs/a/b/c/d.out"])
def test_other_files_are_no_log_of_a_batch_system(tiny_teacher: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        small_run(tiny_teacher, tmp_path)


def test_neither_pipes_nor_folders_in_themselves_are_logs(tmp_path: Path) -> None:
    for name in ("logs", "loop"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "logs" / "pipe")
    (tmp_path / "loop" / "loop").symlink_to(tmp_path / "loop")
    assert ["logs", "loop"] == Folder(str(tmp_path)).strange_names()


@pytest.mark.parametrize("step", [2, 6])
def test_a_run_whose_folder_is_removed_meanwhile_fails(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, capfd: Any
) -> None:
    def alarm_and_remove(at: int, *args: Any, **more: Any) -> None:
        if at == step:
            (tmp_path / "run").rename(tmp_path / "away")

    monkeypatch.setattr(distil, "alarm", alarm_and_remove)
    with pytest.raises(StorageError, match=r"run' was removed, moved or taken over"):
        small_run(tiny_teacher, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_resuming_a_finished_run_repeats_its_report_and_changes_no_weight(
    tiny_teacher: Any, tmp_path: Path
) -> None:
    first = small_run(tiny_teacher, tmp_path / "run").generator.state_dict()
    again = small_run(tiny_teacher, tmp_path / "run", resume=True).generator.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_run_is_not_resumed_with_other_options(tiny_teacher: Any, tmp_path: Path) -> None:
    small_run(tiny_teacher, tmp_path / "run")
    with pytest.raises(UsageError, match=r"generator\.r_init is 0\.6 in the run .* got 0\.5"):
        small_run(tiny_teacher, tmp_path / "run", resume=True, generator=OneStep(r_init=0.5))


def test_a_run_is_not_resumed_with_another_teacher(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"folder": "anywhere", "network": "a" * 64}
    monkeypatch.setattr(type(tiny_teacher), "provenance", lambda _: digests)
    small_run(tiny_teacher, tmp_path / "run")
    digests["folder"] = "elsewhere"
    small_run(tiny_teacher, tmp_path / "run", resume=True)
    digests["network"] = "b" * 64
    before = (tmp_path / "run/generator/generator.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"files .* have changed: the SHA-256 of network is another"):
        small_run(tiny_teacher, tmp_path / "run", resume=True)
    assert before == (tmp_path / "run/generator/generator.safetensors").read_bytes()


def test_other_versions_of_plugins_are_named_and_no_obstacle(
    tiny_teacher: Any, tmp_path: Path, told: list[str]
) -> None:
    registry = Registry.discover({})
    small_run(tiny_teacher, tmp_path / "run", registry=registry)
    assert not any(" up to step " in line for line in told)
    newer = tuple(
        attrs.evolve(offer, version="9.9") if offer.name == "jeffrey" else offer for offer in registry.found
    )
    small_run(tiny_teacher, tmp_path / "run", resume=True, registry=attrs.evolve(registry, found=newer))
    (line,) = [line for line in told if " up to step " in line]
    was = registry.offer("divergence", "jeffrey").version
    assert f"divergence 'jeffrey' was dimo {was} up to step 6, and is dimo 9.9 now" in line


def test_a_stored_configuration_that_was_cut_is_refused(tiny_teacher: Any, tmp_path: Path) -> None:
    """What is missing would be taken for its default."""
    small_run(tiny_teacher, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(CheckpointError, match=r"config\.yaml is damaged, or was edited"):
        small_run(tiny_teacher, tmp_path / "run", resume=True)


def test_a_trained_generator_can_be_continued(tiny_teacher: Any, tmp_path: Path) -> None:
    first = small_run(tiny_teacher, tmp_path / "a").generator.state_dict()
    init = OneStep(init=str(tmp_path / "a" / "generator"))
    start = init.build(tiny_teacher).state_dict()
    assert all(torch.equal(first[name], start[name]) for name in first)
    small_run(tiny_teacher, tmp_path / "b", generator=init)


def test_continuing_from_no_generator_says_where_it_is(tiny_teacher: Any, tmp_path: Path) -> None:
    small_run(tiny_teacher, tmp_path / "a")
    with pytest.raises(CheckpointError, match="Its generator is in the folder 'generator' within"):
        OneStep(init=str(tmp_path / "a")).build(tiny_teacher)


def test_the_manifest_says_where_the_run_stands(tiny_teacher: Any, tmp_path: Path) -> None:
    small_run(tiny_teacher, tmp_path / "run")
    manifest = json.loads((tmp_path / "run/checkpoints/step_000006/manifest.json").read_text())
    assert (6, 48, ["auxiliary", "generator"]) == (manifest["step"], manifest["cursor"], manifest["parts"])
    assert all(len(digest) == 64 for digest in manifest["sha256"].values())


def test_alarms_are_raised_once_each() -> None:
    heard: list[str] = []
    sink = logger.add(lambda message: heard.append(str(message)), level="WARNING", format="{message}")
    raised: set[str] = set()
    alarm(1, {"entropy_theta": 2.0, "logit_scale": 5.0}, codes=64, raised=raised)
    assert heard == []
    for step in (2, 3):
        alarm(step, {"entropy_theta": 0.001, "logit_scale": 500.0}, codes=64, raised=raised)
    logger.remove(sink)
    assert 2 == len(heard)
    assert "step 2: the entropy of p_theta has collapsed" in heard[0]
    assert "drifted to a scale of 500" in heard[1]

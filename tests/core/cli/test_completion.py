"""Shell completion: what is offered after the words typed so far, and the scripts of the shells."""

import os
import shutil
import subprocess
import sys

import pytest

from dimo_core.cli import COMMANDS, main
from dimo_core.cli.completion import SHELLS, candidates
from dimo_core.registry import Registry

pytestmark = pytest.mark.usefixtures("toys")


def words(*typed: str) -> list[str]:
    return [word for word, _ in candidates(typed)]


def test_commands_come_first_with_those_of_plugins():
    assert {*COMMANDS, "gym"} <= {*words("")}
    assert ["run"] == words("ru")
    assert dict(candidates(["pl"])) == {"plugins": COMMANDS["plugins"][1]}
    assert [] == words("nosuch", "")


def test_plugins_are_offered_after_their_kind_and_without_importing_them():
    assert Registry.discover().names("divergence") == words("run", "--divergence", "")
    assert ["--divergence=jeffrey", "--divergence=js"] == words("run", "--divergence=j")
    assert ["jeffrey", "js"] == [w.partition("=")[2] for w in words("run", "--divergence", "=", "j")]
    code = "import sys; from dimo_core.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for typed in (["run", "--tr"], ["run", "--teacher", "maskgit", "--divergence", "fk"]):
        command = [sys.executable, "-c", code, "completion", "words", "--", *typed]
        assert subprocess.run(command, capture_output=True, check=True).stdout


def test_options_follow_the_chosen_plugins():
    assert "--teacher.shape.corners" in words("run", "--teacher", "toy", "--teacher.")
    assert "--teacher.shape.corners" not in words("run", "--teacher.")
    assert "--divergence.beta" in words("run", "--teacher=toy", "--divergence", "tilted", "--div")
    assert ["fp32", "tf32", "bf16"] == words("run", "--teacher", "toy", "--train.precision", "")
    assert ["true", "false"] == words("run", "--train.compile", "")


def test_what_is_wrong_so_far_still_offers_what_always_holds():
    assert ["--divergence"] == words("run", "--teacher", "nosuch", "--divergence")


def test_where_a_file_may_be_meant_nothing_is_offered():
    assert [] == words("config", "") == words("run", "--out", "") == words("run", "--config", "")
    assert ["teacher", "tracker"] == words("plugins", "t")


def test_samplings_of_a_teacher_are_offered():
    assert ["confidence", "random-order", "v1.0"] == words("sample", "--teacher", "maskgit", "--sampling", "")


def test_asking_starts_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in COMMANDS:
        assert words(name, "--"), name
    assert [] == [*tmp_path.iterdir()]
    assert "" == capsys.readouterr().out


def test_words_are_printed_with_what_they_mean(capsys):
    assert 0 == main(["completion", "words", "--", "doc"])
    assert f"doctor\t{COMMANDS['doctor'][1]}\n" == capsys.readouterr().out


@pytest.mark.parametrize("argv", [["completion"], ["completion", "csh"], ["completion", "bash", "x"]])
def test_another_shell_is_one_line(argv, capsys):
    assert 2 == main(argv)
    assert 1 == len(capsys.readouterr().err.splitlines())


TRIED = {
    "bash": "{script}\nCOMP_WORDS=(dimo run --divergence = j) COMP_CWORD=4\n_dimo dimo\n"
    "echo ${{COMPREPLY[@]}}",
    "fish": "{script}\ncomplete -C 'dimo run --divergence j'",
    "zsh": "compdef() {{ :; }}\n{script}\n_describe() {{ echo ${{${{(P)2}}%%:*}} }}\n"
    "words=(dimo run --divergence j) CURRENT=4\n_dimo",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_works_in_its_shell(shell, capsys, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    main(["completion", shell])
    script = capsys.readouterr().out
    (tmp_path / "dimo").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dimo_core "$@"\n')
    (tmp_path / "dimo").chmod(0o755)
    search = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        [shell, "-c", TRIED[shell].format(script=script)],
        env={**os.environ, "PATH": search, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert ["jeffrey", "js"] == " ".join(names).split(), done.stderr

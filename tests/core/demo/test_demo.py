"""``dimo demo`` with a real generator: its samples are those of `dimo sample`, and Ctrl-C ends it."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_core.choice import Choice
from dimo_core.cli import main
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator
from dimo_core.jobs.demo import Demonstration, Wish
from dimo_core.jobs.sample import sample_folder
from dimo_core.registry import Registry, built


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    def make(teacher):
        place, registry = tmp_path_factory.mktemp(teacher), Registry.discover()
        known = built(registry, "teacher", Choice(teacher))
        module = built(registry, "generator", Choice("one_step")).build(known).eval()
        config = {"teacher": {"name": teacher}, "generator": {"name": "one_step"}}
        save_generator(Folder(str(place)), module, known, config, {})
        return str(place)

    return make


def test_samples_of_the_page_are_those_of_the_command(made, tmp_path):
    folder = made("maskgit")
    demo = Demonstration(folder, device="cpu")
    sample_folder(folder, count=6, conditions=["odd"], seed=4, out=str(tmp_path / "own"), device="cpu")
    answer = demo.draw(Wish(condition="odd", seed=4, count=6))
    expected = [np.asarray(Image.open(tmp_path / "own" / f"{i:05d}.png")) for i in range(6)]
    assert np.array_equal(np.stack(expected), answer.images[:, 0].numpy())
    assert (("odd",) * 6, "generator, 1 step", "1 forward pass") == (answer.names, answer.title, answer.cost)
    assert demo.draw(Wish(count=3)).names == ("even", "odd", "even")
    hot = demo.draw(Wish(condition="odd", seed=4, count=6, temperature=0.5)).images
    assert not torch.equal(hot, answer.images)
    assert torch.equal(hot, demo.draw(Wish(condition="odd", seed=4, count=6, temperature=0.5)).images)
    teacher = demo.draw(Wish(who="teacher", count=2))
    assert ("teacher, confidence (16 steps)", "16 forward passes") == (teacher.title, teacher.cost)
    with pytest.raises(UsageError, match="unknown class 'x'"):
        demo.draw(Wish(condition="x"))
    facts = demo.facts()
    assert ("label", ["even", "odd"], 1.0, 64) == tuple(
        facts[name] for name in ("kind", "classes", "temperature", "most")
    )


def test_texts_are_whole(made):
    demo = Demonstration(made("text"), device="cpu")
    answer = demo.draw(Wish(condition="law", count=2))
    assert answer.images is None
    assert 2 == len(answer.lines) == len(answer.names)
    assert all(len(line) > 20 for line in answer.lines)


def test_without_a_generator_it_says_so(tmp_path, capsys):
    with pytest.raises(UsageError, match="no generator in"):
        Demonstration(str(tmp_path))
    assert 2 == main(["demo", str(tmp_path)])
    assert "no generator in" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_a_free_port_until_it_is_stopped(made, sign, request):
    folder = made("maskgit")
    command = [sys.executable, "-m", "dimo_core", "demo", folder, "--port", "0", "--device", "cpu"]
    own = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, own))
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    opened = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    with process.stdout, process.stderr:
        request.addfinalizer(process.wait)
        request.addfinalizer(process.kill)
        _use(process, opened, sign)


def _use(process, opened, sign):
    line = process.stdout.readline()
    url = re.findall(r"http://127\.0\.0\.1:\d+/", line)[0]
    assert "Ctrl-C ends it" in line
    with opened(url) as page:
        assert "<h1>maskgit, 1 step</h1>" in page.read().decode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{url}draw", b'{"count": 2}', headers)
    with opened(asked) as answer:
        images = json.load(answer)["images"]
    assert [(8, 8)] * 2 == [Image.open(BytesIO(b64decode(image))).size for image in images]
    process.send_signal(sign)
    out, errors = process.communicate(timeout=120)
    assert (0, "ended\n", "") == (process.returncode, out, errors)

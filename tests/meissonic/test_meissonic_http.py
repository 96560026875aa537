"""A published folder on a web server: what is fetched, and what is said when a file is missing."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dimo_core.errors import CheckpointError, StorageError
from dimo_meissonic.files import VOCABULARY, WEIGHTS
from dimo_meissonic.teacher import Meissonic

pytest.importorskip("aiohttp")
PROMPTS = ["a red cat", "the hat"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "web" / "Meissonic"))


@pytest.fixture
def server(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    handler = functools.partial(Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def at(server: http.server.ThreadingHTTPServer, **options: Any) -> Meissonic:
    url = f"http://127.0.0.1:{server.server_port}/Meissonic"
    return Meissonic(checkpoint=url, grid=(8, 8), text_device="cpu", **options)


def use(teacher: Meissonic) -> list[torch.Tensor]:
    """What every part makes."""
    c = teacher.encode_conditions(PROMPTS)
    x = torch.arange(128).view(2, 64) % 64
    with torch.no_grad():
        logits = teacher.network().logits(x, c, mask_ratio=torch.full((2,), 0.5))
    return [c["text"], c["pooled"], logits, teacher.decode(x, c)]


def test_a_folder_on_the_web_is_the_folder_itself_and_is_fetched_once(
    server: http.server.ThreadingHTTPServer, published: Path, tmp_path: Path
) -> None:
    teacher = at(server)
    teacher.check()
    expected = use(Meissonic(checkpoint=str(published), grid=(8, 8), text_device="cpu"))
    assert all(torch.equal(a, b) for a, b in zip(expected, use(teacher), strict=True))
    digests = {name: value for name, value in teacher.provenance().items() if name != "folder"}
    local = Meissonic(checkpoint=str(published), grid=(8, 8)).provenance()
    assert digests.items() <= local.items()
    fetched = {path.name for path in (tmp_path / "cache").glob("*/*") if path.suffix != ".json"}
    files = {name for name, _ in VOCABULARY} | {name for names in WEIGHTS.values() for name in names}
    assert fetched <= files
    assert "transformer.py" not in fetched
    server.RequestHandlerClass = Refusing  # type: ignore[assignment]
    again = at(server)
    assert all(torch.equal(a, b) for a, b in zip(expected, use(again), strict=True))


class Refusing(Quiet):
    def do_GET(self) -> None:
        self.send_error(500)

    do_HEAD = do_GET


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("transformer/config.json", r"transformer/config\.json"),
        ("transformer/diffusion_pytorch_model.safetensors", "transformer: diffusion_pytorch_model"),
        ("vqvae/diffusion_pytorch_model.safetensors", "vqvae: diffusion_pytorch_model"),
        ("text_encoder/model.safetensors", r"text_encoder: model\.safetensors"),
        ("tokenizer/merges.txt", r"tokenizer/merges\.txt"),
    ],
)
def test_a_missing_file_is_named_with_its_address_and_the_option(
    server: http.server.ThreadingHTTPServer, folder: Path, missing: str, named: str
) -> None:
    (folder / missing).unlink()
    with pytest.raises(
        CheckpointError, match=rf"127\.0\.0\.1:{server.server_port}/Meissonic/{named}"
    ) as failure:
        at(server).check()
    assert "--teacher.checkpoint" in str(failure.value)


def test_another_text_encoder_that_is_not_there_is_named_with_its_option(
    server: http.server.ThreadingHTTPServer,
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/none"
    with pytest.raises(CheckpointError, match=rf"no CLIP text tower in '{url}'.*--teacher\.text_encoder"):
        at(server, text_encoder=url).check()


def test_a_server_that_fails_is_not_taken_for_a_missing_file(
    server: http.server.ThreadingHTTPServer,
) -> None:
    teacher = at(server)
    teacher.check()
    server.RequestHandlerClass = Refusing  # type: ignore[assignment]
    with pytest.raises(StorageError, match=r"cannot look up .*/transformer/diffusion_pytorch_model.*500"):
        teacher.network()
    fresh = Meissonic(checkpoint=f"http://127.0.0.1:{server.server_port}/other", text_device="cpu")
    with pytest.raises(StorageError, match=r"cannot look up .*/other/transformer/config\.json.*500"):
        fresh.check()

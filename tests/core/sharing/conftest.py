"""A stand-in for the Hugging Face Hub on this machine, and exports to push to it."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from dimo_core.sharing.load import FORMAT

Repositories = dict[str, list[dict[str, bytes]]]
TOKEN = "hf_of_this_test"


class Hub(ThreadingHTTPServer):
    """Repositories in memory; each commit is all of its files.

    Attributes:
        commits: The commits of each repository, the oldest first.
        uploads: What was uploaded, by SHA-256, and not committed yet.
        failing: A part of a path whose requests fail.
        asked: Method and path of all requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: Repositories = {}
        self.uploads: dict[str, bytes] = {}
        self.failing, self.asked = "", list[tuple[str, str]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        self._answer(b"".join(parts))

    do_PUT = do_POST

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        if self.server.failing and self.server.failing in path:
            return self._say(400, {"error": "the stand-in was told to fail"})
        writes = self.command != "GET" and any(part in path for part in ("create", "commit", "preupload"))
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(403, {"error": "this token may not write"})
        match path.strip("/").split("/"):
            case ["api", "validate-yaml"]:
                self._say(200, {"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                given = json.loads(body)
                name = f"{given.get('organization') or 'me'}/{given['name']}"
                self.server.commits.setdefault(name, [{}])
                self._say(200, {"url": f"{self.server.url}/{name}"})
            case ["lfs", digest]:
                self.server.uploads[digest] = body
                self._say(200, {})
            case [_, _, "info", "lfs", "objects", "batch"]:
                self._say(200, self._batch(json.loads(body)))
            case ["api", "models", owner, name, *rest]:
                self._api(f"{owner}/{name}", rest, body)
            case [owner, name, "resolve", revision, *parts]:
                self._file(f"{owner}/{name}", revision, "/".join(parts))
            case _:
                self._say(404, {"error": f"the stand-in does not know {path}"})

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        if name not in self.server.commits:
            return self._missing("RepoNotFound")
        match rest:
            case ["preupload", _]:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for file in json.loads(body)["files"]
                ]
                return self._say(200, {"files": files})
            case ["commit", _]:
                return self._commit(name, body)
        revision = rest[1] if len(rest) > 1 else "main"
        if (files := self._files(name, revision)) is None:
            return self._missing("RevisionNotFound")
        match rest:
            case [] | ["revision", _]:
                listed = [{"rfilename": file} for file in files]
                data = {"id": name, "sha": self._sha(name), "siblings": listed, "private": False, "tags": []}
                self._say(200, data)
            case ["tree", _, *parts]:
                self._say(200, [self._entry(file, data) for file, data in files.items() if not parts])
            case ["paths-info", _]:
                wanted = self._wanted(body)
                self._say(200, [self._entry(file, files[file]) for file in wanted if file in files])

    def _wanted(self, body: bytes) -> list[str]:
        if self.headers.get_content_type() == "application/json":
            found: list[str] = json.loads(body)["paths"]
            return found
        return [unquote(pair.partition("=")[2]) for pair in body.decode().split("&")]

    def _commit(self, name: str, body: bytes) -> None:
        files = dict(self.server.commits[name][-1])
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.uploads[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.server.commits[name].append(files)
        oid = self._sha(name)
        self._say(200, {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}", "header": {}}}}
            for each in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _file(self, name: str, revision: str, file: str) -> None:
        files = self._files(name, revision) if name in self.server.commits else None
        if files is None or file not in files:
            return self._missing("EntryNotFound" if files is not None else "RepoNotFound")
        data, status, more = files[file], 200, {}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data)), len(data) - 1)
            more = {"Content-Range": f"bytes {first}-{end}/{len(data)}"}
            data, status = data[int(first) : end + 1], 206
        more |= {"ETag": f'"{hashlib.sha256(files[file]).hexdigest()}"', "X-Repo-Commit": self._sha(name)}
        self._send(status, data, {"Content-Type": "application/octet-stream", **more})

    def _files(self, name: str, revision: str) -> dict[str, bytes] | None:
        commits = self.server.commits[name]
        if revision == "main":
            return commits[-1]
        known = {f"{number:040x}": files for number, files in enumerate(commits)}
        return known.get(revision)

    def _sha(self, name: str) -> str:
        return f"{len(self.server.commits[name]) - 1:040x}"

    def _entry(self, file: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _missing(self, code: str) -> None:
        self._send(404, b'{"error": "not found"}', {"X-Error-Code": code, "X-Error-Message": "not found"})

    def _say(self, status: int, data: Any) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield served
        served.shutdown()


@pytest.fixture
def hub(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The stand-in, which this process takes for the Hub, with a token that may write."""
    library = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    library.HfFileSystem.clear_instance_cache()
    return server


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Writes the folder of an export, whose files hold no model."""

    def make(name: str = "export", **more: bytes) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        files = {"graph.json": b"{}", "generator.safetensors": b"weights", "load.py": b"pass\n", **more}
        for file, data in files.items():
            (folder / file).write_bytes(data)
        digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        (folder / "export.json").write_text(json.dumps({"format": FORMAT, "sha256": digests}))
        (folder / "README.md").write_text("---\ntags: [dimo]\n---\n# A generator\n")
        return folder

    return make

"""A small hub server on loopback, and a package index in a directory."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from app.base_models.catalogue import BaseModelEntry

COMMIT = "c0ffee" + "0" * 34
OLD_COMMIT = "0ddba11" + "0" * 33
_REPOSITORIES = (
    "/api/models/acme/tiny/",
    "/acme/tiny/",
    "/api/datasets/acme/pairs/",
    "/datasets/acme/pairs/",
)
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def safetensors(payload: bytes) -> bytes:
    """Return a safetensors file with one uint8 tensor."""
    entry = {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}
    header = json.dumps({"score.weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + payload


def model(**changes: object) -> dict[str, bytes]:
    """Return the files of a tiny model.

    ``changes`` with bytes add or replace files; others add or replace values of config.json.
    """
    files = {str(k): v for k, v in changes.items() if isinstance(v, bytes)}
    config = CONFIG | {k: v for k, v in changes.items() if not isinstance(v, bytes)}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": safetensors(bytes(range(256)) * 40),
        "tokenizer.json": b'{"model": {"vocab": {"auto_map": 0}}}',
        "tokenizer_config.json": b"{}",
        "README.md": b"read me",
        "pytorch_model.bin": b"a pickle",
    } | files


class Hub(ThreadingHTTPServer):
    """Implements the part of the hub's API that huggingface_hub uses to download a commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = {COMMIT: model(), OLD_COMMIT: model(old=True)}
        self.refs = {"main": COMMIT, "v1": OLD_COMMIT}
        #: The files and the card of the dataset acme/pairs at ``COMMIT``.
        self.dataset: dict[str, bytes] = {}
        self.dataset_card: dict[str, object] = {}
        self.has_sizes = True
        self.token: str | None = None
        self.status: tuple[int, str] | None = None
        self.is_gated = False
        self.damage: bytes | None = None
        self.break_after: int | None = None
        #: Files are sent up to their last byte; that waits for this event.
        self.may_finish: threading.Event | None = None
        self.requests: list[tuple[str, str]] = []
        self.authorizations: set[str | None] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, name: str) -> int:
        """Return how often a file was downloaded."""
        return sum(verb == "GET" and path.endswith(f"/{name}") for verb, path in self.requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """Do not print errors of clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path))
        hub.authorizations.add(self.headers["authorization"])
        if hub.status:
            return self._refuse(*hub.status)
        if not path.startswith(_REPOSITORIES):
            return self._refuse(404, "RepoNotFound")
        if hub.token and self.headers["authorization"] != f"Bearer {hub.token}":
            return self._refuse(401, "RepoNotFound")
        if path.startswith("/api/"):
            return self._info(path.rpartition("/revision/")[2], is_dataset="/datasets/" in path)
        commit, _, name = path.partition("/resolve/")[2].partition("/")
        if hub.is_gated:
            return self._refuse(403, "GatedRepo")
        files = hub.dataset if path.startswith("/datasets/") else hub.commits.get(commit, {})
        return self._file(commit, name, files.get(name))

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _info(self, revision: str, *, is_dataset: bool) -> None:
        commit = self.server.refs.get(revision, revision)
        if commit not in self.server.commits:
            return self._refuse(404, "RevisionNotFound")
        siblings = []
        files = self.server.dataset if is_dataset else self.server.commits[commit]
        for name, content in files.items():
            sibling: dict[str, object] = {"rfilename": name, "blobId": _blob_id(content)}
            if self.server.has_sizes:
                sibling["size"] = len(content)
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            siblings.append(sibling)
        repo = "acme/pairs" if is_dataset else "acme/tiny"
        card = {"cardData": self.server.dataset_card} if is_dataset else {}
        body = json.dumps({"id": repo, "sha": commit, "siblings": siblings} | card).encode()
        return self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, commit: str, name: str, content: bytes | None) -> None:
        if content is None:
            return self._refuse(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_blob_id(content)}"'}
        if name.endswith(".safetensors") and self.server.damage:
            content = self.server.damage
        start = 0
        if wanted := self.headers["range"]:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._answer(206 if wanted else 200, content[start:], headers)

    def _refuse(self, status: int, code: str) -> None:
        # A careless server: it repeats the token of the request.
        message = f"you sent {self.headers['authorization']}"
        self._answer(status, message.encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.break_after is not None and len(body) > self.server.break_after:
            self.wfile.write(body[: self.server.break_after])
            self.close_connection = True
            return
        if self.server.may_finish is not None and "/resolve/" in self.path:
            self.wfile.write(body[:-1])
            self.server.may_finish.wait(60)
            body = body[-1:]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Run a hub with one repository, acme/tiny."""
    # Do not wait between the client's retries, and do not use the hub cache of this user.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "user-cache"))
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def make_wheel(index: Path, files: dict[str, bytes], *, dist: str = "acme_tiny") -> Path:
    """Add a wheel of version 1.0 to an index. Its dependency does not exist."""
    info = f"{dist}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
    wheel = index / f"{dist}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make pip use an empty directory as its only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def entry(source: str, **fields: object) -> BaseModelEntry:
    """Return a catalogue entry."""
    return BaseModelEntry.model_validate({"id": "tiny", "source": source, **fields})

"""The part of a model hub's API that ``create_repo`` and ``create_commit`` use, on loopback.

Small files are part of the commit. Large files are uploaded first with the LFS protocol: in one
piece, or in parts if they have more than ``PART_BYTES``.
https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md
"""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_canaryCANARYcanary"
LFS_BYTES = 100_000
PART_BYTES = 1_000_000


class Hub(ThreadingHTTPServer):
    """A hub with one repository, ``acme/rewards``, and a storage server without tokens."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.status = 200
        #: Large files by sha256, and the parts that have arrived.
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.verified: list[str] = []
        self.leaked: list[str] = []
        #: Uploads to the storage that fail before one succeeds.
        self.failures = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        hub, body = self.server, self._body()
        path = self.path.partition("?")[0]
        if path.startswith("/storage/"):  # the last request of an upload in parts
            return self._complete(path.rpartition("/")[2], json.loads(body))
        if self.headers["authorization"] != f"Bearer {TOKEN}" or hub.status != 200:
            return self._answer(hub.status if hub.status != 200 else 401, {})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, asked)
            return self._answer(status, {"url": f"{hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            return self._answer(200, {"files": [_mode(f) for f in json.loads(body)["files"]]})
        if path == "/acme/rewards.git/info/lfs/objects/batch":
            asked = json.loads(body)
            assert (asked["operation"], asked["hash_algo"]) == ("upload", "sha256")
            return self._answer(200, {"objects": [self._upload(o) for o in asked["objects"]]})
        if path == "/verify":
            hub.verified.append(json.loads(body)["oid"])
            return self._answer(200, {})
        assert path == "/api/models/acme/rewards/commit/main", path
        return self._commit(body)

    def do_PUT(self) -> None:
        """A large file, or a part of one. The storage is another server: it gets no token."""
        hub, data = self.server, self._body()
        if self.headers["authorization"]:
            hub.leaked.append(self.path)
        if hub.failures:
            hub.failures -= 1
            return self._answer(500, {})
        _, _, oid, *part = self.path.split("/")
        if part:
            hub.parts[oid, int(part[0])] = data
        else:
            hub.objects[oid] = data
        return self._answer(200, {}, ETag=f'"{hashlib.md5(data).hexdigest()}"')

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        hub, oid = self.server, wanted["oid"]
        if oid in hub.objects:
            return wanted  # without actions: the file exists already
        href = f"{hub.url}/storage/{oid}"
        upload: dict[str, Any] = {"href": href}
        if wanted["size"] > PART_BYTES:
            count = -(-wanted["size"] // PART_BYTES)
            parts = {f"{n:05}": f"{href}/{n}" for n in range(1, count + 1)}
            upload["header"] = {"chunk_size": str(PART_BYTES), **parts}
        actions = {"upload": upload, "verify": {"href": f"{hub.url}/verify"}}
        return {**wanted, "actions": actions}

    def _complete(self, oid: str, asked: dict[str, Any]) -> None:
        hub = self.server
        numbers = [part["partNumber"] for part in asked["parts"]]
        assert (asked["oid"], numbers) == (oid, list(range(1, len(numbers) + 1)))
        hub.objects[oid] = b"".join(hub.parts[oid, number] for number in numbers)
        self._answer(200, {})

    def _commit(self, body: bytes) -> None:
        hub = self.server
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            if entry["key"] == "lfsFile":
                data = hub.objects[value["oid"]]
                assert (hashlib.sha256(data).hexdigest(), len(data)) == (
                    value["oid"],
                    value["size"],
                )
                hub.files[value["path"]] = data
        url = f"{hub.url}/acme/rewards/commit/{COMMIT}"
        self._answer(200, {"commitOid": COMMIT, "commitUrl": url})

    def _body(self) -> bytes:
        if self.headers["transfer-encoding"] != "chunked":
            return self.rfile.read(int(self.headers["content-length"] or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, status: int, document: dict[str, Any], **headers: str) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["size"] > LFS_BYTES else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

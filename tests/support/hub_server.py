"""A local stand-in for the Hugging Face Hub: what `repo_info`, `create_repo`, `upload_folder` and `create_tag` request.

Large kinds of files arrive by the Git LFS protocol, all others inside the commit, as on the Hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LFS_KINDS = (".safetensors", ".parquet")
TOKEN = "hf_of_the_test"
_COMMIT = "0" * 40


@dataclass
class Repository:
    """One repository, and how the server is to fail."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)


@dataclass
class HubServer:
    """What the server has received, and how it is to fail."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    """Repository, with the prefix datasets/ for a dataset."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Files in LFS by their SHA-256."""
    cuts: int = 0
    """Uploads to LFS whose connection is cut half-way."""
    read_only: bool = False
    """The token may not write."""
    storage_status: int = 200
    """Status of uploads to LFS."""

    def save(self, name: str, folder: Path) -> Path:
        """Writes the files of a repository as a download would."""
        for path, content in self.repositories[name].files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """The state of a repository."""
        name = self._name()
        if not self._allowed():
            return
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._answer({"error": "Repository not found"}, 404, "RepoNotFound")
        described = [_described(path, content) for path, content in repository.files.items()]
        if "/tree/" in self.path:
            keys = {"rfilename": "path", "blobId": "oid"}
            return self._answer([{"type": "file", **{keys.get(k, k): v for k, v in one.items()}} for one in described])
        info = {"id": name.removeprefix("datasets/"), "sha": _COMMIT, "private": repository.private, "tags": []}
        self._answer({**info, "siblings": described})

    def do_PUT(self) -> None:
        """A file of LFS. A cut connection has taken only half of it."""
        size = int(self.headers["Content-Length"])
        if self.hub.cuts:
            self.hub.cuts -= 1
            self.rfile.read(size // 2)
            self.connection.close()
            return None
        content = self.rfile.read(size)
        if self.hub.storage_status != 200:
            return self._answer({"error": f"refused {self.headers['Authorization']}"}, self.hub.storage_status)
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        return self._answer({})

    def do_POST(self) -> None:
        """Creates a repository, says how files are to be sent, takes a commit, or adds a tag."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._allowed():
            return None
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":  # the head of a card
            return self._answer({"errors": [], "warnings": []})
        repository = self.hub.repositories[self._name()]
        if "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(LFS_KINDS) else "regular" for name in names}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            return self._answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._answer(
                {"transfer": "basic", "objects": [self._lfs(one) for one in json.loads(body)["objects"]]}
            )
        if self.hub.read_only:
            return self._answer({"error": "Forbidden: you must have write access"}, 403)
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                self._change(repository, line["key"], line["value"])
            url = f"{self.hub.address}/{self._name()}/commit/{_COMMIT}"
            return self._answer({"success": True, "commitOid": _COMMIT, "commitUrl": url, "hookOutput": ""})
        if "/tag/" in self.path:
            repository.tags.append(json.loads(body)["tag"])
        return self._answer({})

    def _create(self, asked: dict[str, Any]) -> None:
        kind = "datasets/" if asked.get("type") == "dataset" else ""
        name = (
            f"{kind}{asked['organization']}/{asked['name']}" if asked.get("organization") else f"{kind}{asked['name']}"
        )
        if name in self.hub.repositories:
            return self._answer({"error": "You already created this repo", "url": f"{self.hub.address}/{name}"}, 409)
        private = asked.get("private", asked.get("visibility") == "private")  # by version of the client
        self.hub.repositories[name] = Repository(private, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self._answer({"url": f"{self.hub.address}/{name}", "name": name})

    def _lfs(self, one: dict[str, Any]) -> dict[str, Any]:
        """Where to send a file; nothing to do if it is here."""
        href = f"{self.hub.address}/lfs/{one['oid']}"
        return one if one["oid"] in self.hub.objects else {**one, "actions": {"upload": {"href": href, "header": {}}}}

    def _change(self, repository: Repository, key: str, value: dict[str, Any]) -> None:
        if key == "file":
            repository.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            repository.files[value["path"]] = self.hub.objects[value["oid"]]
        elif key == "deletedFile":
            del repository.files[value["path"]]

    def _name(self) -> str:
        """The repository that a request is about."""
        parts = self.path.partition("?")[0].removeprefix("/api").strip("/").split("/")
        if parts[0] == "models":
            parts = parts[1:]
        return "/".join(parts[: 3 if parts[0] == "datasets" else 2]).removesuffix(".git")

    def _allowed(self) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not allowed:
            self._answer({"error": "Invalid username or password."}, 401)
        return allowed

    def _answer(self, content: Any, status: int = 200, code: str = "") -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(data)


def _described(path: str, content: bytes) -> dict[str, Any]:
    """A file as the Hub lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    described: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
    if path.endswith(LFS_KINDS):
        sha256 = hashlib.sha256(content).hexdigest()
        described["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 130}
    return described


@contextmanager
def serving_hub() -> Generator[HubServer]:
    """Serves an empty Hub."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

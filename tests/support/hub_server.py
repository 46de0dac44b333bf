"""A local stand-in for the Hugging Face Hub: the requests of `create_repo`, `upload_folder` and `create_tag`."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Repository:
    """What the server has received."""

    address: str = ""
    private: bool | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    refuse: bool = False  # answer 401


@contextmanager
def serving_hub() -> Generator[Repository]:
    """Serves one dataset repository, `me/pairs`."""
    repository = Repository()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            """The state of the repository, before and after the upload."""
            if repository.refuse:
                return self._answer({"error": "Invalid username or password."}, 401)
            siblings = [{"rfilename": name} for name in repository.files]
            info = {"id": "me/pairs", "sha": "0" * 40, "siblings": siblings, "private": True, "tags": []}
            if "/tree/" in self.path:
                return self._answer(
                    [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in repository.files]
                )
            return self._answer(info)

        def do_POST(self) -> None:
            """Creates the repository, takes files, or adds a tag."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if repository.refuse:
                return self._answer({"error": "Invalid username or password."}, 401)
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repository.private = asked.get(
                    "private", asked.get("visibility") == "private"
                )  # by version of the client
                return self._answer({"url": f"{repository.address}/datasets/me/pairs", "name": "me/pairs"})
            if "/preupload/" in self.path:
                names = [one["path"] for one in json.loads(body)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                return self._answer({"files": modes})
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    if line["key"] == "deletedFile":
                        del repository.files[line["value"]["path"]]
                url = f"{repository.address}/datasets/me/pairs/commit/{'0' * 40}"
                return self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""})
            if "/tag/" in self.path:
                repository.tags.append(json.loads(body)["tag"])
            return self._answer({})

        def _answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    repository.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

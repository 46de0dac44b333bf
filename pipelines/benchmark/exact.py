"""The exact checker of the scenes world as a judge: behind a chat endpoint on this machine, and in place of a detector.

The endpoint is a real HTTP server, so that the scenes world uses the same client, parsers and retries as a service.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

from actors.images import ImageError, decode_image
from conf.endpoints import ChatSettings
from pipelines.benchmark import geneval_rules
from pipelines.benchmark.geneval_rules import Detection
from pipelines.benchmark.items import BenchmarkItem, Judgement, without_image
from pipelines.scenes.answering import answer_chat, find_boxes

RETRIES = 3
"""Retries of a call whose connection was dropped, as on a machine with much other work."""
J = TypeVar("J", bound=ChatSettings)


def with_exact_server(judge: J) -> J:
    """The settings of a judge with the address of the exact checker's server, which runs until this process ends."""
    return replace(judge, url=f"http://127.0.0.1:{_server().server_port}/v1", model="exact", retries=RETRIES)


@cache
def _server() -> ThreadingHTTPServer:
    """The server of this process, on a free port of the loopback interface."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # several judges connect at once; the default of 5 drops connections


class _Handler(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers a chat request with one image."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            reply, status = answer_chat(body), 200
        except ValueError as error:  # a question that the checker does not know
            reply, status = str(error), 422
        message = {"role": "assistant", "content": reply, "refusal": None}
        sure = {"token": reply, "logprob": 0.0, "bytes": None}
        logprobs = {"content": [{**sure, "top_logprobs": [sure]}]} if body.get("logprobs") else None
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "exact", "choices": [choice]}
        content = {**answer, "usage": usage} if status == 200 else {"error": {"message": reply}}
        self._send(status, json.dumps(content).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


@dataclass(frozen=True)
class ExactBoxes:
    """GenEval's rules on the objects that the exact checker finds."""

    async def judge_all(
        self, images: Sequence[tuple[BenchmarkItem, int]], files: Sequence[bytes | None]
    ) -> list[Judgement]:
        """The judgements of images of GenEval, in order."""
        return [self._judge(item, image, file) for (item, image), file in zip(images, files, strict=True)]

    def _judge(self, item: BenchmarkItem, image: int, file: bytes | None) -> Judgement:
        if file is None:
            return without_image(item, image)
        try:
            found = find_boxes(decode_image(file))
        except ImageError as error:
            return without_image(item, image, error)
        # A clean object counts, however well its outline fits: the checker has no confidence as a detector has.
        detections = [
            Detection(each.name, 1.0, each.left, each.top, each.right, each.bottom, each.color) for each in found
        ]
        return geneval_rules.judge(item, image, detections)

"""An OpenAI-compatible server on loopback that speaks for the scenes world: it writes, perturbs and paints.

What it says in a chat can be another function. A function that raises `Refusing` refuses as a content policy does.

It can be told to misbehave. Whether a question is troubled follows from its content; asked again it is answered,
except for `never`, which refuses for good, as a content policy does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from pipelines.common.images import encode_png
from pipelines.scenes import grammar, render

FRAME = "As seen by the viewer,"
ONCE = ("429", "500", "garbage", "drop", "slow")  # a call's troubles
ANSWERS = ("refusal", "malformed", "untrue")  # what the model may say instead; asking again in other words helps
NEVER = "never"


Speaker = Callable[[dict[str, Any], bool], str]
"""(body of a chat question, whether to say something untrue) -> what the model says."""


class Refusing(Exception):
    """The model will not answer this."""


def speak_of_scenes(body: dict[str, Any], untrue: bool) -> str:
    """A writer's or a perturber's answer, as structured output."""
    form = body["response_format"]["json_schema"]
    assert form["strict"] and form["schema"]["additionalProperties"] is False
    speak = written if form["name"] == "WrittenPrompt" else perturbed
    return json.dumps(speak(body["messages"][0]["content"], untrue))


@dataclass
class Behaviour:
    """Shares of questions that are troubled, by trouble, and what was seen."""

    shares: Mapping[str, float] = field(default_factory=dict)
    speak: Speaker = speak_of_scenes
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of all questions, in the order they came
    seconds: float = 0.0  # that every answer takes
    slow_seconds: float = 1.5
    seen: Counter[str] = field(default_factory=Counter)  # digest of a question -> times it was asked
    answered: Counter[str] = field(default_factory=Counter)  # … and was given an answer to pay for
    troubles: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    waited: list[float] = field(default_factory=list)  # seconds between a 429 and the same question again
    busy: int = 0
    busiest: int = 0  # calls under way at once
    lock: threading.Lock = field(default_factory=threading.Lock)
    told_to_wait: dict[str, float] = field(default_factory=dict)

    def trouble_of(self, digest: str, names: Sequence[str]) -> str:
        """Which of `names` befalls the question, by its content; "" for none."""
        draw = int(hashlib.sha256(f"trouble|{digest}".encode()).hexdigest()[:8], 16) / 16**8
        for name in names:
            draw -= self.shares.get(name, 0.0)
            if draw < 0:
                return name
        return ""


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        digest, own, body = hashlib.sha256(raw).hexdigest(), self.behaviour, json.loads(raw)
        with own.lock:
            own.bodies.append(body)
            own.seen[digest] += 1
            own.keys.add(self.headers["Authorization"])
            own.busy += 1
            own.busiest = max(own.busiest, own.busy)
            if digest in own.told_to_wait:
                own.waited.append(time.monotonic() - own.told_to_wait.pop(digest))
            trouble = own.trouble_of(digest, ONCE) if own.seen[digest] == 1 else ""
            own.troubles[trouble] += 1
        try:
            time.sleep(own.slow_seconds if trouble == "slow" else own.seconds)
            self._respond(body, digest, trouble)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client had waited long enough, or was killed
        finally:
            with own.lock:
                own.busy -= 1

    def _respond(self, body: dict[str, Any], digest: str, trouble: str) -> None:
        if trouble == "429":
            with self.behaviour.lock:
                self.behaviour.told_to_wait[digest] = time.monotonic()
            self._send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "1"})
        elif trouble == "500":
            self._send(500, b'{"error": {"message": "oh"}}')
        elif trouble == "garbage":
            self._send(200, b"<html>a proxy's page</html> {")
        elif trouble == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.path.endswith("/images/generations"):
            self._paint(body, digest)
        else:
            self._chat(body, digest)

    def _chat(self, body: dict[str, Any], digest: str) -> None:
        question = json.dumps(body["messages"][0]["content"])
        never = self.behaviour.trouble_of(hashlib.sha256(question.encode()).hexdigest(), (NEVER,))
        lie = self.behaviour.trouble_of(digest, ANSWERS) if len(body["messages"]) == 1 else ""
        with self.behaviour.lock:
            self.behaviour.troubles[never or lie] += 1
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        try:
            if never:
                raise Refusing
            if lie == "refusal":
                message["refusal"] = "I will not"
            else:
                said = self.behaviour.speak(body, lie == "untrue")
                message["content"] = said[: len(said) // 2] if lie == "malformed" else said
        except Refusing:
            return self._send(400, b'{"error": {"message": "against the policy", "code": "content_policy_violation"}}')
        answer = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        }  # fmt: skip
        self._paid(answer, digest)

    def _paint(self, body: dict[str, Any], digest: str) -> None:
        assert body["response_format"] == "b64_json" and body["watermark"] is False
        text = body["prompt"].removeprefix(FRAME).strip()
        rng = np.random.default_rng([body["seed"], int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)])
        pixels = render.render(render.lay_out(grammar.parse(text), rng), rng)
        image = base64.b64encode(encode_png(pixels)).decode()
        self._paid({"created": 0, "data": [{"b64_json": image}]}, digest)

    def _paid(self, answer: dict[str, Any], digest: str) -> None:
        self._send(200, json.dumps(answer).encode())
        with self.behaviour.lock:
            self.behaviour.answered[digest] += 1

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stays quiet."""


def written(question: str, untrue: bool) -> dict[str, Any]:
    """A writer's answer: a sentence of the grammar with as many relations as asked. `untrue`: with one too few."""
    relations, variation = (int(re.search(rf"{word} (\d+)", question)[1]) for word in ("exactly", "Variation"))  # type: ignore[index]
    scene = grammar.write_scene(np.random.default_rng(variation), relations + 1)
    told = [
        {**vars(relation), "phrase": phrase} for relation, phrase in zip(scene.relations, phrases(scene), strict=True)
    ]
    return {"prompt": f"{FRAME} {scene.text}", "frame": FRAME, "relations": told[untrue:]}


def phrases(scene: grammar.Scene) -> list[str]:
    """The part of the sentence that states each relation."""
    found = []
    for child, (parent, word) in enumerate(zip(scene.parents, scene.words, strict=True), start=1):
        link = {True: f"a {scene.objects[parent].name} ", False: "and "}[child == 1 or parent != 0]
        link += "that is " if child > 1 and parent != 0 else ""
        found.append(f"{link}{word} a {scene.objects[child].name}")
    return found


def perturbed(question: str, untrue: bool) -> dict[str, Any]:
    """A perturber's answer. `untrue`: it changes an object as well."""
    text = re.search(rf"{FRAME} (.*)", question)[1]  # type: ignore[index]
    count = int(re.search(r"Change exactly (\d+)", question)[1])  # type: ignore[index]
    scene = grammar.parse(text)
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
    changed, _ = grammar.perturb(scene, count, np.random.default_rng(seed))
    told = [
        {"number": i, **vars(after)}
        for i, (before, after) in enumerate(zip(scene.relations, changed.relations, strict=True), start=1)
        if before != after
    ]
    prompt = f"{FRAME} {changed.text}"
    return {"prompt": re.sub("circle|square|triangle", "hexagon", prompt) if untrue else prompt, "changes": told}


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The server's base URL."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.request_queue_size = 128
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()

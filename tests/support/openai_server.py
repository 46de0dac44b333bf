"""An OpenAI-compatible server on loopback for the scenes world: it writes, perturbs and renders.

The replies of its chat model can be another function. If that raises `ContentRefusal`, the server refuses as a content
policy does.

The server can fail on purpose. The content of a question decides whether it fails. A repeated question succeeds, except
for the failure `never`, which always refuses.
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
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from actors.images import decode_image
from actors.types import Relation
from pipelines.common.images import encode_png
from pipelines.scenes import grammar, render
from pipelines.scenes.checker import check

FRAME = "As seen by the viewer,"
ONCE = ("429", "500", "garbage", "drop", "slow")  # failures of a call
ANSWERS = ("refusal", "malformed", "untrue")  # invalid replies of the model; a question in other words succeeds
NEVER = "never"

Reply = Callable[[dict[str, Any], bool], str]
"""(body of a chat question, whether the reply must be wrong) -> the reply of the model."""


class ContentRefusal(Exception):
    """The model refuses to answer."""


class CutAnswer(Exception):
    """The reply, which is the argument, ends at the limit of tokens."""


def scenes_reply(body: dict[str, Any], untrue: bool) -> str:
    """The answer of a writer or a perturber, as structured output."""
    form = body["response_format"]["json_schema"]
    assert form["strict"] and form["schema"]["additionalProperties"] is False
    if form["name"] == "ClaimAnswers":
        return json.dumps({"answers": true_answers(*claims_of(body["messages"][0]["content"]))})
    answer = written if form["name"] == "WrittenPrompt" else perturbed
    return json.dumps(answer(body["messages"][0]["content"], untrue))


@dataclass
class Behaviour:
    """Fractions of questions that fail, by failure, and a record of what happened."""

    shares: Mapping[str, float] = field(default_factory=dict)
    reply: Reply = scenes_reply
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of all questions, in the order of arrival
    obeys: float = 1.0  # probability with which a generated image shows a relation of its prompt
    seconds: float = 0.0  # duration of every call
    slow_seconds: float = 1.5
    seen: Counter[str] = field(default_factory=Counter)  # digest of a question -> calls
    answered: Counter[str] = field(default_factory=Counter)  # digest of a question -> answers that cost something
    failures: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    retry_waits: list[float] = field(default_factory=list)  # seconds between a 429 and the same question again
    in_flight: int = 0  # calls
    max_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    rejected_at: dict[str, float] = field(default_factory=dict)  # digest of a question -> time of its 429

    def failure_of(self, digest: str, names: Sequence[str]) -> str:
        """The failure out of `names` that the content of a question selects; "" for none."""
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
        digest, behaviour, body = hashlib.sha256(raw).hexdigest(), self.behaviour, json.loads(raw)
        with behaviour.lock:
            behaviour.bodies.append(body)
            behaviour.seen[digest] += 1
            behaviour.keys.add(self.headers["Authorization"])
            behaviour.in_flight += 1
            behaviour.max_in_flight = max(behaviour.max_in_flight, behaviour.in_flight)
            if digest in behaviour.rejected_at:
                behaviour.retry_waits.append(time.monotonic() - behaviour.rejected_at.pop(digest))
            failure = behaviour.failure_of(digest, ONCE) if behaviour.seen[digest] == 1 else ""
            behaviour.failures[failure] += 1
        try:
            time.sleep(behaviour.slow_seconds if failure == "slow" else behaviour.seconds)
            self._respond(body, digest, failure)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client timed out or was killed
        finally:
            with behaviour.lock:
                behaviour.in_flight -= 1

    def _respond(self, body: dict[str, Any], digest: str, failure: str) -> None:
        if failure == "429":
            with self.behaviour.lock:
                self.behaviour.rejected_at[digest] = time.monotonic()
            self._send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "1"})
        elif failure == "500":
            self._send(500, b'{"error": {"message": "oh"}}')
        elif failure == "garbage":
            self._send(200, b"<html>a proxy's page</html> {")
        elif failure == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.path.endswith("/images/generations"):
            self._generate(body, digest)
        else:
            self._chat(body, digest)

    def _chat(self, body: dict[str, Any], digest: str) -> None:
        question = json.dumps(body["messages"][0]["content"])
        never = self.behaviour.failure_of(hashlib.sha256(question.encode()).hexdigest(), (NEVER,))
        invalid = self.behaviour.failure_of(digest, ANSWERS) if len(body["messages"]) == 1 else ""
        with self.behaviour.lock:
            self.behaviour.failures[never or invalid] += 1
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        finish_reason = "stop"
        try:
            if never:
                raise ContentRefusal
            if invalid == "refusal":
                message["refusal"] = "I will not"
            else:
                reply = self.behaviour.reply(body, invalid == "untrue")
                message["content"] = reply[: len(reply) // 2] if invalid == "malformed" else reply
        except CutAnswer as cut:
            message["content"], finish_reason = str(cut), "length"
        except ContentRefusal:
            return self._send(400, b'{"error": {"message": "against the policy", "code": "content_policy_violation"}}')
        logprobs = None
        if body.get("logprobs") and message["content"]:
            message["content"], logprobs = likeliest(message["content"])
            finish_reason = "length"  # as the limit is one token
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": logprobs}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        }
        self._send_answer(answer, digest)

    def _generate(self, body: dict[str, Any], digest: str) -> None:
        assert body["response_format"] == "b64_json" and body["watermark"] is False
        pixels = generated(body["prompt"], body["seed"], self.behaviour.obeys)
        image = base64.b64encode(encode_png(pixels)).decode()
        self._send_answer({"created": 0, "data": [{"b64_json": image}]}, digest)

    def _send_answer(self, answer: dict[str, Any], digest: str) -> None:
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
        """Logs nothing."""


def likeliest(reply: str) -> tuple[str, dict[str, Any] | None]:
    """The likeliest of the first tokens that a reply lists as JSON, and all of them; None without a list."""
    if not reply.startswith("{"):
        return reply, None
    listed = [{"token": token, "logprob": value, "bytes": None} for token, value in json.loads(reply).items()]
    first = max(listed, key=lambda each: each["logprob"])
    return first["token"], {"content": [{**first, "top_logprobs": listed}]}


def written(question: str, untrue: bool) -> dict[str, Any]:
    """A writer's answer with the requested number of relations. `untrue`: one of them is not listed."""
    relations, variation = (int(re.search(rf"{word} (\d+)", question)[1]) for word in ("exactly", "Variation"))  # type: ignore[index]
    scene = grammar.write_scene(np.random.default_rng(variation), relations + 1)
    listed = [{**vars(relation), "phrase": statement(relation)} for relation in scene.relations]
    return {"prompt": sentence_of(scene), "frame": FRAME, "relations": listed[untrue:]}


def perturbed(question: str, untrue: bool) -> dict[str, Any]:
    """A perturber's answer, which turns relations into their opposites. `untrue`: it also changes an object."""
    scene = scene_of(re.search(rf"{FRAME} .*", question)[0])  # type: ignore[index]
    count = int(re.search(r"Change exactly (\d+)", question)[1])  # type: ignore[index]
    seed = int(hashlib.sha256(scene.text.encode()).hexdigest()[:8], 16)
    chosen = np.random.default_rng(seed).permutation(len(scene.words))[:count]
    words = tuple(grammar.OPPOSITE[word] if i in chosen else word for i, word in enumerate(scene.words))
    changed = replace(scene, words=words)
    changes = [{"number": int(i) + 1, **vars(changed.relations[i])} for i in sorted(chosen)]
    prompt = sentence_of(changed)
    return {"prompt": re.sub("circle|square|triangle", "hexagon", prompt) if untrue else prompt, "changes": changes}


def claims_of(content: Sequence[dict[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """The image and the claims of a question about an image."""
    image, text = content[0]["image_url"]["url"], content[1]["text"]
    return decode_image(base64.b64decode(image.partition(",")[2])), re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)


def true_answers(image: np.ndarray, claims: Sequence[str]) -> list[str]:
    """The exact checker's answers to claims such as "red circle: …" and "red circle is left of blue square"."""
    relations = [
        Relation(*match.groups())
        for claim in claims
        if (match := re.match(r"(\w+ \w+) is (\w+(?: of)?) (\w+ \w+)$", claim))
    ]
    verdict = check(image, relations)
    holds = [*verdict.present.values(), *(outcome == "right" for outcome in verdict.outcomes)]
    return ["yes" if one else "no" for one in holds]


def statement(relation: Relation) -> str:
    """A clause that names both objects of a relation."""
    return f"a {relation.subject} is {relation.relation} a {relation.object}"


def sentence_of(scene: grammar.Scene) -> str:
    """A prompt that states every relation of a scene in a clause of its own."""
    return f"{FRAME} {', '.join(map(statement, scene.relations))}"


def scene_of(text: str) -> grammar.Scene:
    """The scene of `sentence_of`, or of the grammar's own sentence."""
    if " is " not in text:
        return grammar.parse(text)
    clauses = re.findall(r"a (\w+ \w+) is (\w+(?: of)?) a (\w+ \w+)", text)
    names = [clauses[0][0], *(child for _, _, child in clauses)]
    objects = tuple(grammar.SceneObject.named(name) for name in names)
    return grammar.Scene(
        objects, tuple(word for _, word, _ in clauses), tuple(names.index(head) for head, _, _ in clauses)
    )


def generated(text: str, seed: int, obeys: float) -> np.ndarray:
    """The image of a prompt, which shows each of its relations with probability `obeys`: uint8 [H, W, 3]."""
    rng = np.random.default_rng([seed, int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)])
    scene = scene_of(text)
    if obeys < 1:
        others = [rng.choice([word for word in grammar.RELATIONS if word != stated]) for stated in scene.words]
        kept = rng.random(len(others)) < obeys
        words = (str(stated if keep else other) for stated, other, keep in zip(scene.words, others, kept, strict=True))
        scene = replace(scene, words=tuple(words))
    return render.render(render.lay_out(scene, rng), rng)


@contextmanager
def serving(behaviour: Behaviour) -> Generator[str]:
    """Runs the server and yields its base URL."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.request_queue_size = 128
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()

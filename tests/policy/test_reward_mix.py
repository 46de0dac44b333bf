"""Several rewards at once: the exact checker and a judge that answers over HTTP on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import ray
from ray import serve

from actors.judge import grade_in
from conf import SettingsError, load
from pipelines.policy.reward_mix import start_rewards
from pipelines.scenes.grammar import parse
from pipelines.scenes.render import lay_out, render

KEY = "sk-secret-of-the-test"


class OpenAiServer(BaseHTTPRequestHandler):
    """Chat completions: grades 7; the question about a green object is refused, the first one fails once."""

    failed: ClassVar = threading.Event()
    seen: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"key": self.headers["Authorization"], **body})
        question = body["messages"][0]["content"][1]["text"]
        if not self.failed.is_set():
            self.failed.set()
            self._answer(429, {"error": {"message": "slow down"}})
        elif "green" in question:
            self._answer(400, {"error": {"message": "against the policy"}})
        else:
            message = {"role": "assistant", "content": "7"}
            self._answer(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "judge",
                               "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})  # fmt: skip

    def _answer(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stays quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OpenAiServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.mark.ray
def test_rewards_are_weighed_and_a_failed_grade_fails_its_image_only(
    ray_cluster: None, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALT2I_TEST_KEY", KEY)
    texts = [
        "a red circle left of a blue square",
        "a red circle right of a blue square",
        "a green circle above a red square",
    ]
    rng = np.random.default_rng(0)
    pictures = [render(lay_out(parse(text), rng), rng) for text in (texts[0], texts[0], texts[2])]
    settings = load("scenes", [
        "mix.spatialscore=0", "mix.rules=2", "mix.judge=0.5", f"judge.url={endpoint}", "judge.model=judge",
        "judge.key_variable=SPATIALT2I_TEST_KEY",
    ])  # fmt: skip
    rewards = start_rewards(settings)
    try:
        scores = asyncio.run(rewards.score(ray.put(np.stack(pictures)), texts))
    finally:
        rewards.stop()
        serve.shutdown()  # another test may want this Ray's Serve with HTTP, which only its first start decides
    assert scores.mu[:2].tolist() == pytest.approx([2 * 1.0 + 0.5 * 7, 2 * 2 / 3 + 0.5 * 7])
    assert np.isnan(scores.mu[2])
    assert len(OpenAiServer.seen) == 4  # three questions, one asked again
    assert all(call["key"] == f"Bearer {KEY}" and call["model"] == "judge" for call in OpenAiServer.seen)
    assert OpenAiServer.seen[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_mix_that_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match="whose weight is not 0"):
        load("scenes", ["mix.spatialscore=0"])
    with pytest.raises(ValueError, match="pictures of the scenes world only"):
        start_rewards(load("flux_dev", ["mix.rules=1"]))


@pytest.mark.parametrize(
    ("answer", "grade"), [("7", 7.0), ("Grade: 8.5", 8.5), ("11", None), ("7 of 10", None), ("none", None)]
)
def test_a_grade_is_one_number(answer: str, grade: float | None) -> None:
    assert np.isnan(grade_in(answer)) if grade is None else grade_in(answer) == grade

"""The reward pool grows with the load of its HTTP service up to its largest size, and shrinks when it is idle."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from actors.workers.reward import RewardPool, start_pool
from conf.serving import ServingSettings
from tests.support.hostile_requests import JSON, json_body, png
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CALLERS = 8
BODY = json_body([png(256, 256)] * 16, ["a red circle left of a blue square"] * 16)


def test_replicas_follow_the_load_of_http_requests(ray_cluster: None, tmp_path: Path) -> None:
    """Eight callers on one replica, then none. Every request is answered, and all answers are equal."""
    from ray import serve

    save_tiny_vlm(tmp_path / "vlm")
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(tmp_path / "model")
    serve.shutdown()  # an earlier test may have started Serve without HTTP, which cannot be changed
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ServingSettings(
        min_replicas=1, max_replicas=2, target_ongoing_requests=1, upscale_delay_s=1, downscale_delay_s=3,
        http=True, port=port, token_variable="",
    )  # fmt: skip
    pool = start_pool(settings, str(tmp_path / "model"), "an elastic run")
    try:
        assert pool.replicas() == 1
        ended = threading.Event()
        with ThreadPoolExecutor(CALLERS) as callers:
            calling = [callers.submit(_call_until, ended, port) for _ in range(CALLERS)]
            try:
                _wait_for(lambda: pool.replicas() == settings.max_replicas, pool)
            finally:
                ended.set()
            scores = np.array([mu for caller in calling for mu in caller.result()])
        assert len(scores) >= CALLERS
        np.testing.assert_allclose(scores, scores[0, 0], rtol=1e-3, atol=1e-5)
        _wait_for(lambda: pool.replicas() == settings.min_replicas, pool)
    finally:
        pool.stop()
        serve.shutdown()


def _call_until(ended: threading.Event, port: int) -> list[list[float]]:
    """The scores of the requests that one caller sends, at least one."""
    found: list[list[float]] = []
    while not ended.is_set() or not found:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/score", BODY, {"Content-Type": JSON})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200, content
        found.append(content["mu"])
        connection.close()
    return found


def _wait_for(condition: Callable[[], bool], pool: RewardPool) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"{pool.replicas()} replicas run"
        time.sleep(0.2)

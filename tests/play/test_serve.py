"""The page on Ray Serve: the images of `policy sample`, scores of the pool, progress, and who has left."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from ray import serve

from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample_before_and_after
from actors.spatialscore.scorer import SpatialScorer
from actors.types import PolicyWeights
from conf import Settings, load
from pipelines.play.serve import start_play
from pipelines.policy.export import export_lora
from pipelines.policy.fingerprint import flux_location
from tests.support.ports import free_port
from tests.support.tiny_flux import perturb_lora
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TEXT = "a red circle left of a blue square"
TOKEN = "token-of-the-test"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run with an exported policy and a SpatialScore, both changed at random."""
    root = tmp_path_factory.mktemp("play")
    words = [f"run_dir={root}", f"play.port={free_port()}", "play.token_variable=PLAY_TOKEN", "play.waiting=0"]
    settings = load("scenes", [*words, "evaluation.denoise_steps=4", "rewards.rules.weight=0"])
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux)
    perturb_lora(policy, 0.3)
    export_lora(PolicyWeights(3, {key: value.numpy() for key, value in policy.lora_state().items()}), settings)
    save_tiny_vlm(root / "vlm")
    tiny_spatialscore(root / "vlm").save_pretrained(root / "reward" / "model")
    return settings


@pytest.fixture(scope="module")
def address(settings: Settings, ray_cluster: None) -> Iterator[str]:
    serve.shutdown()  # an earlier test may have started Serve without HTTP, which cannot be changed
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAY_TOKEN", TOKEN)
        play = start_play(settings)
    assert TOKEN not in play.address
    yield play.address.partition("#")[0]
    play.stop()
    serve.shutdown()


def _ask(address: str, seed: int) -> requests.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"prompt": TEXT, "seed": seed}
    return requests.post(f"{address}api/images", json=body, headers=headers, stream=True, timeout=60)


def _done(address: str, seed: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _ask(address, seed).iter_lines()]


def test_the_page_shows_what_the_sampler_makes_and_what_spatialscore_gives_it(settings: Settings, address: str) -> None:
    *before, done = _done(address, 5)
    assert [event["done"] for event in before[:-1]] == pytest.approx([step / 8 for step in range(9)])
    assert before[-1] == {"state": "scoring"} and done["state"] == "done"
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux)
    perturb_lora(policy, 0.3)
    expected = sample_before_and_after(policy, policy.encode([TEXT]), [5], SamplingPlan(denoise_steps=4))
    scorer = SpatialScorer.from_pretrained(Path(settings.run_dir) / "reward" / "model", device="cpu")
    for side, images in zip(("base", "tuned"), expected, strict=True):
        shown = np.array(Image.open(io.BytesIO(base64.b64decode(done[side]["png"]))))
        assert np.abs(shown.astype(int) - images[0].astype(int)).max() <= 1
        score = float(scorer.score(images=images, prompts=[TEXT]).mu[0])
        assert done[side]["scores"]["SpatialScore"] == pytest.approx(score, rel=1e-2, abs=1e-3)
        assert 0 <= done[side]["scores"]["rules"] <= 1, "a watched reward"
        assert len(done[side]["verdict"]["relations"]) == 1
    assert done["base"]["png"] != done["tuned"]["png"]


def test_who_leaves_frees_the_place_at_once_and_others_are_busy_until_then(address: str) -> None:
    leaving = _ask(address, 6)
    lines = leaving.iter_lines()
    assert json.loads(next(lines))["state"] == "sampling"
    assert _ask(address, 7).status_code in (200, 503), "the first may be done already"
    leaving.close()
    for _ in range(100):
        answer = _ask(address, 8)
        if answer.status_code == 200:
            break
    assert json.loads(list(answer.iter_lines())[-1])["state"] == "done"


def test_the_page_its_headers_and_its_health_need_no_token_and_all_else_does(address: str) -> None:
    page = requests.get(address, timeout=30)
    assert page.status_code == 200 and "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    expected = {"page/play.js": 200, "page/app.py": 404, "health": 200, "api/about": 401, "-/routes": 404, "docs": 404}
    assert {path: requests.get(address + path, timeout=30).status_code for path in expected} == expected

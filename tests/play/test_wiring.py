"""The deployments of the page together, in the mode of Serve that runs them in one process without a cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fastapi import Request
from ray import serve

from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.types import PolicyWeights
from actors.workers.comparison import comparison_deployment
from conf import load
from pipelines.common.paths import run_paths
from pipelines.play.app import PlayHttp, PlayRequest
from pipelines.play.rules import PromptRules
from pipelines.play.serve import describe
from pipelines.policy.export import export_lora
from pipelines.policy.fingerprint import flux_location
from tests.support.play_server import RIGHT, FakeReward


def test_the_page_reaches_the_exported_policy_through_serve(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}", "evaluation.denoise_steps=2"])
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux)
    lora = {key: value.numpy() + 0.05 for key, value in policy.lora_state().items()}
    export_lora(PolicyWeights(3, lora), settings)
    paths = run_paths(settings)
    about = describe(settings, paths)
    assert (about["version"], about["exact"], len(about["examples"])) == (3, True, 4)
    sampler = comparison_deployment(
        flux_location(settings),
        str(paths.export),
        settings.flux,
        SamplingPlan.for_evaluation(settings.evaluation),
        settings.policy.samplers,
        settings.play.replicas,
    )
    rewards: Any = {"SpatialScore": FakeReward()}
    bound = PlayHttp.bind(sampler, rewards, settings.play, PromptRules.of(settings), about, None)
    page: Any = serve.run(bound, name="page", _local_testing_mode=True)

    async def ask() -> list[dict[str, Any]]:
        response = await page.images.remote(
            PlayRequest(prompt=RIGHT.text, seed=2), Request({"type": "http", "headers": []})
        )
        return [json.loads(line) async for line in response.body_iterator]

    *before, done = asyncio.run(ask())
    assert [event.get("done") for event in before] == [0, 0.25, 0.5, 0.75, 1, None]
    assert done["state"] == "done" and done["base"]["png"] != done["tuned"]["png"], "the LoRA is off and on"

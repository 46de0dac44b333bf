"""A colocated worker, without Ray: it samples with the weights that it learns, and never with others."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.grpo.advantages import group_advantages
from actors.grpo.shares import WHOLE
from actors.policy.plan import SamplingPlan
from actors.types import Conditioning, Trajectory
from actors.workers.learner import LearnerJob
from actors.workers.policy_worker import PolicyWorker
from actors.workers.profiles import ProfilePlan
from actors.workers.sampling_calls import WeightsHandle
from conf.flux import FluxSettings
from conf.policy import RolloutSettings
from tests.support.learner import SETTINGS

COLOCATED = replace(SETTINGS, placement="colocated", rollout=RolloutSettings(max_actors=0, min_actors=0))
TEXT = "a red circle left of a blue square"


def test_a_worker_samples_with_the_weights_that_it_learns(flux_directory: Path, tmp_path: Path) -> None:
    flux, profile = FluxSettings(model=str(flux_directory)), ProfilePlan((1,), str(tmp_path))
    worker = PolicyWorker(LearnerJob(flux.model, flux, COLOCATED, profile=profile), 0)
    assert worker.start("") == 0
    first, plan = WeightsHandle(0, False, None), SamplingPlan.for_training(COLOCATED)
    report, _, conditioning, *trajectories = worker.sample_group(TEXT, range(4), first, plan)
    whole = [row.latents for row in trajectories if isinstance(row, Trajectory)]
    assert isinstance(conditioning, Conditioning) and getattr(report, "images", 0) == len(whole) == 4
    half = [
        row.latents
        for part in ((0, 1), (2, 3))
        for row in worker.sample_group(TEXT, part, first, replace(plan, max_batch=2), noise_seed=0)[3:]
        if isinstance(row, Trajectory)
    ]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(whole, half, strict=True))

    scores = np.arange(4, dtype=np.float32)
    kept = [row for row in trajectories if isinstance(row, Trajectory)]
    worker.accumulate(0, WHOLE, group_advantages(scores, COLOCATED.algorithm), conditioning, *kept)
    assert worker.optimizer_step(1.0).ratio_drift == 0.0
    with pytest.raises(ValueError, match="version 0 and has stepped"):
        worker.sample_group(TEXT, range(4), first, plan)
    assert worker.end_iteration() == 1
    with pytest.raises(ValueError, match=r"version 0 reached a rank that learns from version 1$"):
        worker.sample_group(TEXT, range(4), first, plan)

    traces = {path.name.removesuffix(".json.gz"): path for path in (tmp_path / "iteration-1").iterdir()}
    kinds = ("sample_group-1", "sample_group-2", "accumulate-1", "optimizer_step-1")  # two of three sampling calls
    assert sorted(traces) == sorted(f"policy_worker-0-{kind}" for kind in kinds)
    for path in traces.values():
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        assert any(event["name"].startswith("aten::") for event in events)

    learner = worker.learner
    trained = {key: value.clone() for key, value in learner.policy.lora_state().items()}
    with worker._weights(WeightsHandle(1, True, None)):
        lent = {key: value.clone() for key, value in learner.policy.lora_state().items()}
    assert all(torch.equal(value, learner.ema.weights[key]) for key, value in lent.items())
    assert any(not torch.equal(value, trained[key]) for key, value in lent.items())
    assert all(torch.equal(value, trained[key]) for key, value in learner.policy.lora_state().items())

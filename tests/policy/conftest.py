"""Fixtures of stage 3: settings of a run that takes seconds, and rewards that need no training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conf import Settings, load
from pipelines.scenes.grammar import training_prompts
from tests.support.rewards import RednessPool
from tests.support.tiny_families import tiny
from tests.support.tiny_flux import flux_directory, policy
from tests.support.tiny_qwen_image import qwen_image_directory, qwen_image_flux

__all__ = ["flux_directory", "policy", "qwen_image_directory", "qwen_image_flux", "tiny"]


@pytest.fixture(scope="session")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight prompts as JSON lines."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"text": prompt.text} for prompt in training_prompts(8, 0, 0.5)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def settings_of(flux_directory: Path, prompt_file: Path) -> Callable[..., Settings]:
    """Makes settings of a run that takes seconds: 4 iterations of 2 prompts x 4 images, 3 denoise steps."""
    small = [
        f"flux.model={flux_directory}",
        f"policy.prompts={prompt_file}",
        "policy.iterations=4",
        "policy.prompts_per_iteration=2",
        "policy.group_size=4",
        "policy.algorithm.top_k=1",
        "policy.sampling.denoise_steps=3",
        "policy.sampling.window=1",
        "policy.learner.replay_batch=4",
        "policy.learner.threads=1",
        "policy.rollout.max_actors=1",
        "policy.checkpoint.every=2",
        "policy.evaluation.every=0",
    ]

    def make(run_dir: Path, *overrides: str) -> Settings:
        return load("scenes", [f"run_dir={run_dir}", *small, *overrides])

    return make


@pytest.fixture
def rewards(ray_cluster: None) -> Iterator[RednessPool]:
    """A pool that prefers red images."""
    pool = RednessPool()
    yield pool
    pool.stop()

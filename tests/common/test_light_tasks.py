"""Small Ray tasks and actors import no model library: that takes each of their processes ten seconds of a core."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    "actors.services.budget",
    "pipelines.common.worker_log",
    "pipelines.evaluation.image_tasks",
    "pipelines.policy.checker_metrics",
    "pipelines.policy.light_tasks",
    "pipelines.policy.measures",
    "pipelines.preferences.ops",
    "pipelines.reward.readers",
    "tests.support.light_actors",
)


@pytest.mark.parametrize("module", MODULES)
def test_its_process_imports_no_model_library(module: str) -> None:
    program = f"import sys, {module}; print(*{{'torch', 'transformers', 'diffusers', 'peft'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

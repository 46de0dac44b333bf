"""Small Ray tasks and actors import no model library: that takes each of their processes ten seconds of a core."""

from __future__ import annotations

import pytest

from tests.support.imported import imported

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
    assert not imported(module) & {"torch", "transformers", "diffusers", "peft"}


def test_replicas_of_rules_services_and_functions_import_torch_at_most() -> None:
    assert not imported("actors.workers.reward_replica") & {"transformers", "diffusers", "peft"}

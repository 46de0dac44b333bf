"""Options of actors: a user's runtime environment is added to the variables that every actor needs."""

from __future__ import annotations

from actors.worker_setup import actor_options
from conf import load


def test_a_runtime_environment_of_the_user_takes_precedence() -> None:
    user = {"pip": ["transformers==4.51"], "env_vars": {"HF_HOME": "/models", "MKL_NUM_THREADS": "2"}}
    merged = actor_options(4, 1.0, 0.5, runtime_env=user)["runtime_env"]
    assert merged["pip"] == user["pip"]
    assert merged["env_vars"]["HF_HOME"] == "/models"
    assert merged["env_vars"]["OMP_NUM_THREADS"] == "4"
    assert merged["env_vars"]["MKL_NUM_THREADS"] == "2"


def test_settings_take_runtime_environments() -> None:
    settings = load("scenes", ["serving.runtime_env.env_vars.HF_HOME=/models", "detector.runtime_env={pip: [a, b]}"])
    assert settings.serving.runtime_env == {"env_vars": {"HF_HOME": "/models"}}
    assert settings.detector.runtime_env == {"pip": ["a", "b"]}
    assert settings.judge.runtime_env == {}

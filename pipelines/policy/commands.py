"""`spatialt2i policy …`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.policy.export import export_newest
from pipelines.policy.sample import sample_sheet
from pipelines.policy.train import run_policy


def train(settings: Settings) -> None:
    """Trains, resumes or finishes the run's policy."""
    with ray_session(settings):
        result = run_policy(settings)
    print(f"version {result.version} after {result.training_seconds:.0f} s of training: {result.export}")


def export(settings: Settings) -> None:
    """Exports the newest checkpoint's LoRA."""
    print(f"wrote {export_newest(settings)}")


def sample(settings: Settings) -> None:
    """Draws `sample.text` by base and tuned policy."""
    print(f"wrote {sample_sheet(settings)}")

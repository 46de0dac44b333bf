"""The actions of `spatialt2i policy`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving, writing
from pipelines.policy.export import export_newest
from pipelines.policy.sample import sample_images
from pipelines.policy.train import check_files, check_spatialscore, run_policy


def train(settings: Settings) -> None:
    """Trains, resumes or finishes the policy of the run. Raises UserError, before Ray starts, if a file is missing."""
    check_spatialscore(settings)
    check_files(settings)
    with driving(settings, "policy"), ray_session(settings):
        result = run_policy(settings)
    print(f"policy version {result.version} after {result.training_seconds:.0f} s of training: {result.export}")


def export(settings: Settings) -> None:
    """Exports the LoRA of the newest checkpoint."""
    with writing(settings):
        print(f"wrote {export_newest(settings)}")


def sample(settings: Settings) -> None:
    """Generates images of `sample.text` by the base and by the trained policy."""
    with writing(settings):
        print(f"wrote {sample_images(settings)}")

"""The actions of `spatialt2i policy`."""

from __future__ import annotations

from actors.folders import require_replaceable
from conf import Settings
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import clock
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving, writing
from pipelines.policy.checkpoint import claim_checkpoints
from pipelines.policy.export import export_chosen
from pipelines.policy.sample import sample_images
from pipelines.policy.train import check_files, check_spatialscore, run_policy
from pipelines.policy.versions import finished_version


def train(settings: Settings) -> None:
    """Trains, resumes or finishes the policy of the run. Raises UserError, before Ray starts, if a file is missing."""
    check_spatialscore(settings)
    check_files(settings)
    if version := finished_version(settings):
        print(f"nothing left to do: version {version} is trained and exported to {run_paths(settings).export}")
        return
    with driving(settings, "policy"):
        claim_checkpoints(settings)
        with ray_session(settings):
            result = run_policy(settings)
    print(
        f"policy version {result.version} after {clock(result.training_seconds)} of training. LoRA for diffusers: "
        f"{result.export}"
    )


def export(settings: Settings) -> None:
    """Exports the LoRA of the version that `export.version` names."""
    if settings.export.merged:
        require_replaceable(run_paths(settings).merged)
    with writing(settings):
        paths = export_chosen(settings)
    print(f"wrote {paths.export}")
    if settings.export.merged:
        print(f"wrote {paths.merged}")


def sample(settings: Settings) -> None:
    """Generates images of each text of `sample.text` by the base and by the trained policy."""
    with writing(settings):
        for path in sample_images(settings):
            print(f"wrote {path}")

"""`spatialt2i run`, `demo`, `submit` and `status`."""

from __future__ import annotations

from conf import Settings


def run(settings: Settings) -> None:
    """Runs the whole pipeline as one job. Raises UserError, before Ray starts, if a file that it reads is missing."""
    from pipelines.common.prompts import check_prompts
    from pipelines.common.ray_session import ray_session
    from pipelines.common.run_folder import driving
    from pipelines.operations.run import run_pipeline
    from pipelines.policy.checkpoint import claim_checkpoints

    check_prompts(settings)
    with driving(settings, "preferences", "reward", "policy", "evaluation"):
        claim_checkpoints(settings)
        with ray_session(settings):
            run_pipeline(settings)


def submit(settings: Settings) -> None:
    """Runs another command as a job on a cluster. Raises SystemExit with the job's exit code."""
    from pipelines.operations.submit import submit as submit_job

    raise SystemExit(submit_job(settings))


def status(settings: Settings) -> None:
    """Shows the state of a run in the terminal."""
    from pipelines.operations.job_client import select_cluster

    select_cluster(settings.status.address)
    from pipelines.operations.status import show_status

    show_status(settings)

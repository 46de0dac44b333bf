"""`spatialt2i run`, `demo`, `submit` and `status`."""

from __future__ import annotations

from conf import Settings


def run(settings: Settings) -> None:
    """The whole pipeline as one job."""
    from pipelines.common.ray_session import ray_session
    from pipelines.operations.run import run_pipeline

    with ray_session(settings):
        run_pipeline(settings)


def submit(settings: Settings) -> None:
    """Another verb as a job on a cluster. Raises SystemExit with the job's exit code."""
    from pipelines.operations.submit import submit as submit_job

    raise SystemExit(submit_job(settings.submit))


def status(settings: Settings) -> None:
    """The run in the terminal."""
    from pipelines.operations.submit import use_cluster

    use_cluster(settings.status.address)
    from pipelines.operations.status import watch

    watch(settings)

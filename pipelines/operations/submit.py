"""`spatialt2i submit VERB ...`: a verb as a job on a running cluster, followed to its end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from conf.operations import SubmitSettings

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
PASSED_ON = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")  # no secret is: nodes get theirs from Kubernetes


def submit(settings: SubmitSettings) -> int:
    """Packs the working directory, starts the job, follows its log. Returns the exit code of the job's own process.

    With `follow` off it returns 0 once the cluster has taken the job. Ctrl-C returns 130 and leaves the job running,
    unless `stop_on_interrupt` is set. Raises ConnectionError where no cluster answers.
    """
    client = connect(settings.address)
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    job = client.submit_job(
        entrypoint=_entrypoint(settings.command),
        runtime_env={"working_dir": settings.working_dir, "env_vars": environment},
    )
    address = client.get_address()
    print(f"job {job} at {address}: {settings.command}", flush=True)
    if not settings.follow:
        return 0
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        if settings.stop_on_interrupt:
            client.stop_job(job)
            asyncio.run(_end_of(client, job))  # so that whoever submits again does not meet it still running
            print(f"stopped {job}")
        else:
            where = f"--address {address} {job}"
            print(f"{job} goes on. Follow it: ray job logs --follow {where}; stop it: ray job stop {where}")
        return INTERRUPTED
    return exit_code(client, job)


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster at `address`, with this user's Ray token where there is one."""
    use_cluster(address)
    from ray.job_submission import JobSubmissionClient  # reads RAY_AUTH_MODE when it is imported

    return JobSubmissionClient(address or None)


def use_cluster(address: str) -> None:
    """Has Ray's clients in this process talk to the dashboard at `address`. Call it before they are imported."""
    if address:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client prefers this and RAY_ADDRESS to its argument
    elif os.environ.get("RAY_ADDRESS") == "local":
        del os.environ["RAY_ADDRESS"]  # a private cluster takes no jobs
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's client sends the token in this mode only


def has_token() -> bool:
    """Whether this user holds a Ray token, in one of the three places where Ray looks."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    default = Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or (Path(named) if named else default).is_file()


def _entrypoint(command: str) -> str:
    """The command by the cluster's Python, so that it runs what was sent and not what the nodes have installed."""
    return f"python -m pipelines.cli {command.removeprefix('spatialt2i ')}"


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
    await _end_of(client, job)  # the log ends a moment before the status does


async def _end_of(client: JobSubmissionClient, job: str) -> None:
    while not client.get_job_status(job).is_terminal():
        await asyncio.sleep(0.5)


def exit_code(client: JobSubmissionClient, job: str) -> int:
    """A finished job's own exit code; 1 where it ended without one (stopped, or its node was lost)."""
    details = client.get_job_info(job)
    if details.status.name == "SUCCEEDED":
        return 0
    print(f"{job} {details.status.name.lower()}: {(details.message or 'no message').splitlines()[0]}")
    return max(details.driver_exit_code or 1, 1)

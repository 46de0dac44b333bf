"""`spatialt2i submit VERB ...`: runs a command as a job on a running cluster and follows its log."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from conf import UserError
from conf.operations import SubmitSettings
from pipelines.common import interrupt

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

FORWARDED = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")
"""Environment variables that a job inherits. Secrets are not among them: nodes get those from Kubernetes."""


def submit(settings: SubmitSettings) -> int:
    """Uploads the working directory, starts the job and follows its log. Returns the exit code of the job's process.

    If `follow` is false, returns 0 once the cluster has accepted the job. Ctrl-C returns 130 and leaves the job
    running, unless `stop_on_interrupt` is set. Raises UserError if no cluster answers or it refuses the job.
    """
    client, job = start_job(settings)
    address = client.get_address()
    print(f"submitted job {job} to {address}: {settings.command}", flush=True)
    if not settings.follow:
        return 0
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        if settings.stop_on_interrupt:
            client.stop_job(job)
            asyncio.run(_wait_until_ended(client, job))  # so that the next submission does not find it still running
            print(f"stopped job {job}")
        else:
            target = f"--address {address} {job}"
            print(f"job {job} keeps running")
            print(f"follow its log: ray job logs --follow {target}")
            print(f"stop it:        ray job stop {target}")
        return interrupt.exit_code()
    return exit_code(client, job)


def start_job(settings: SubmitSettings) -> tuple[JobSubmissionClient, str]:
    """Connects to the cluster, with this user's Ray token if there is one, and starts the job. Returns its id, too.

    Raises UserError if no cluster answers, if it refuses the token, or if the working directory cannot be sent.
    """
    select_cluster(settings.address)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient  # reads RAY_AUTH_MODE when it is imported

    environment = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    runtime_env = {"working_dir": settings.working_dir, "env_vars": environment}
    try:
        client = JobSubmissionClient(settings.address or None)
        job = client.submit_job(entrypoint=_entrypoint(settings.command), runtime_env=runtime_env)
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the job was not submitted: {reason} Check submit.address (the cluster's dashboard), RAY_AUTH_TOKEN and "
            "submit.working_dir"
        ) from error
    return client, job


def select_cluster(address: str) -> None:
    """Makes Ray's clients in this process use the dashboard at `address`. Call it before they are imported."""
    if address:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client prefers this and RAY_ADDRESS to its argument
    elif os.environ.get("RAY_ADDRESS") == "local":
        del os.environ["RAY_ADDRESS"]  # a private cluster accepts no jobs
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's client sends the token in this mode only


def has_token() -> bool:
    """Whether this user has a Ray token, in one of the three places where Ray looks."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    default = Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or (Path(path) if path else default).is_file()


def _entrypoint(command: str) -> str:
    """The command, run by the cluster's Python from the uploaded folder instead of the package installed on nodes."""
    return f"python -m pipelines.cli {command.removeprefix('spatialt2i ')}"


async def _follow(client: JobSubmissionClient, job: str) -> None:
    """Prints the log until the job has ended."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
    await _wait_until_ended(client, job)  # the log ends a moment before the status changes


async def _wait_until_ended(client: JobSubmissionClient, job: str) -> None:
    while not client.get_job_status(job).is_terminal():
        await asyncio.sleep(0.5)


def exit_code(client: JobSubmissionClient, job: str) -> int:
    """The exit code of a finished job's process; 1 if it ended without one (stopped, or its node was lost)."""
    details = client.get_job_info(job)
    if details.status.name == "SUCCEEDED":
        return 0
    print(f"job {job} {details.status.name.lower()}: {(details.message or 'no message').splitlines()[0]}")
    return max(details.driver_exit_code or 1, 1)

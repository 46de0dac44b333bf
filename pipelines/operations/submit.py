"""`spatialt2i submit VERB ...`: runs a command as a job on a running cluster and follows its log to the end."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from conf import Settings, UserError
from pipelines.common import interrupt
from pipelines.operations.follow import GaveUpError, follow
from pipelines.operations.job_client import JobGoneError, NoAnswerError, connect
from pipelines.operations.sent_folder import describe_upload, git_state

FORWARDED = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")
"""Environment variables that a job inherits. Secrets are not among them: nodes get those from Kubernetes."""
STILL_RUNNING = 75
"""Exit code if the cluster stopped to answer: the job may still run. It is EX_TEMPFAIL of sysexits.h."""
WRONG_INPUT = 2
"""Exit code of a job that would fail in the same way again."""
INTERRUPTED = (interrupt.INTERRUPTED, interrupt.TERMINATED)
EARLY_SECONDS, MAX_EARLY = 600.0, 3
"""With `keep`, this many jobs in a row that end within this time are no accident."""


def submit(settings: Settings) -> int:
    """Sends the folder, starts the job and follows its log. Returns the exit code of the job's process.

    If the same command is already running on the run directory, follows that job instead. If `submit.follow` is false,
    returns 0 once the cluster has accepted the job. Ctrl-C returns 130 and leaves the job running, unless
    `stop_on_interrupt` is set. Returns STILL_RUNNING if the cluster stopped to answer. Raises UserError if no cluster
    answers, it refuses the job, or another command is at work in the run directory.
    """
    options = settings.submit
    client = connect(options.address, options.verify)
    job = "" if settings.take_over else _running_job(client, settings)
    if job:
        print(f"job {job} is already running this command in {settings.run_dir}: following it", flush=True)
    else:
        job = _start(client, settings)
    if not options.follow:
        return 0
    early = 0
    while True:
        started = time.monotonic()
        code = _follow_to_end(client, settings, job)
        early = early + 1 if time.monotonic() - started < EARLY_SECONDS else 0
        if code is not None and (not options.keep or code in (0, WRONG_INPUT, STILL_RUNNING, *INTERRUPTED)):
            return code
        if not options.keep or early >= MAX_EARLY:
            print(f"not submitted again: {early} jobs in a row ended early" if options.keep else "submit it again")
            return code or 1
        delay = 10.0 * 2**early
        print(f"submit.keep: submitting again in {delay:.0f} s", flush=True)
        time.sleep(delay)
        job = _start_with_retries(client, settings)


def _start(client: Any, settings: Settings) -> str:
    """Sends the folder and starts the job. Returns its id."""
    options = settings.submit
    commit = git_state(options.working_dir)
    job = client.submit_job(
        entrypoint=_entrypoint(options.command),
        runtime_env={
            "working_dir": options.working_dir,
            "env_vars": {name: os.environ[name] for name in FORWARDED if name in os.environ},
        },
        metadata={
            "run_dir": settings.run_dir,
            "command": options.command,
            "writes_run": str(options.writes_run).lower(),
            "commit": commit,
        },
    )
    print(describe_upload(options.working_dir, client.sent_bytes, commit))
    print(f"submitted job {job} to {client.get_address()}: {options.command}", flush=True)
    return job


def _start_with_retries(client: Any, settings: Settings) -> str:
    """Starts the job as soon as the cluster answers, within the user's patience. Raises NoAnswerError after that."""
    deadline = time.monotonic() + 60 * settings.submit.patience_minutes
    while True:
        try:
            return _start(client, settings)
        except NoAnswerError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(10)


def _running_job(client: Any, settings: Settings) -> str:
    """The id of the job that runs the same command in the same run directory; "" if there is none.

    Raises UserError if a job with another command is at work there: both would write the same run.
    """
    if not settings.submit.writes_run:
        return ""
    for details in client.list_jobs():
        metadata = details.metadata or {}
        other, writes = metadata.get("command", ""), metadata.get("writes_run") == "true"
        if details.status.is_terminal() or metadata.get("run_dir") != settings.run_dir or not writes:
            continue
        if other == settings.submit.command:
            return details.submission_id
        raise UserError(
            f"job {details.submission_id} is at work in {settings.run_dir} with another command: {other}. Submit that "
            f"one to follow it, stop it with `ray job stop {details.submission_id}`, choose another run_dir, or add "
            "take_over=true"
        )
    return ""


def _follow_to_end(client: Any, settings: Settings, job: str) -> int | None:
    """Follows the job. Returns its exit code, or None if it was lost with the cluster's head."""
    options = settings.submit
    try:
        details = asyncio.run(follow(client, job, 60 * options.patience_minutes))
    except KeyboardInterrupt:
        if options.stop_on_interrupt:
            _stop(client, job)
        else:
            _say_how_to_follow(client, options.command, job)
        return interrupt.exit_code()
    except GaveUpError as error:
        print(f"{error}. Gave up after {options.patience_minutes:g} minutes")
        _say_how_to_follow(client, options.command, job)
        return STILL_RUNNING
    except JobGoneError as error:
        print(f"job {job} is lost: {error}. Submitted again, it continues from its newest checkpoint")
        return None
    except UserError:
        _say_how_to_follow(client, options.command, job)
        raise
    return exit_code(details, job)


def _stop(client: Any, job: str) -> None:
    """Stops the job and waits for its end, so that the next submission does not find it still running."""
    client.stop_job(job)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.5)
    print(f"stopped job {job}")


def _say_how_to_follow(client: Any, command: str, job: str) -> None:
    target = f"--address {client.get_address()} {job}"
    print(f"job {job} keeps running, as far as is known")
    print(f"follow it:  spatialt2i submit {command.removeprefix('spatialt2i ')}")
    print(f"its log:    ray job logs --follow {target}")
    print(f"stop it:    ray job stop {target}", flush=True)


def _entrypoint(command: str) -> str:
    """The command, run by the cluster's Python from the uploaded folder instead of the package installed on nodes."""
    return f"python -m pipelines.cli {command.removeprefix('spatialt2i ')}"


def exit_code(details: Any, job: str) -> int:
    """The exit code of a finished job's process; 1 if it ended without one, on a lost node; 130 if it was stopped."""
    if details.status.name == "SUCCEEDED":
        return 0
    print(f"job {job} {details.status.name.lower()}: {(details.message or 'no message').splitlines()[0]}")
    if details.status.name == "STOPPED":
        return interrupt.INTERRUPTED
    return max(details.driver_exit_code or 1, 1)

"""Following a job to its end: through cut connections, a sleeping laptop, and a head that is started again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pipelines.operations.job_client import NoAnswerError

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between two tries."""


class GaveUpError(Exception):
    """The cluster did not answer for as long as the user wants to wait. The job may still run."""


async def follow(client: Any, job: str, patience: float) -> Any:
    """Prints the job's log until it has ended, each line once. Returns Ray's details of the job.

    After a cut it connects again. `patience`: seconds without any answer after which it raises GaveUpError. They do not
    pass while this machine sleeps. Raises JobGoneError if the cluster does not know the job any more.
    """
    printed, answered, delay = 0, time.monotonic(), FIRST_DELAY
    cut, refused = False, False
    while True:
        try:
            if cut:
                details = await asyncio.to_thread(client.get_job_info, job)
                print(f"connected again, job {job} is {details.status.name.lower()}", flush=True)
                answered, cut, refused = time.monotonic(), False, False
            received = await _print_log(client, job, printed)
            delay = FIRST_DELAY if received > printed else min(2 * delay, LONGEST_DELAY)
            printed = max(printed, received)
            details = await asyncio.to_thread(client.get_job_info, job)
            answered = time.monotonic()
            if details.status.is_terminal():  # the log ends a moment before the status changes
                return details
        except _Cut as error:
            printed, cut, delay = max(printed, error.received), True, FIRST_DELAY
            answered = max(answered, error.time)
            print(f"{error}; connecting again to job {job}", flush=True)
        except NoAnswerError as error:
            if not refused:
                print(f"{error}. Trying again for up to {patience / 60:g} minutes", flush=True)
            cut, refused, delay = True, True, min(2 * delay, LONGEST_DELAY)
            if time.monotonic() - answered >= patience:
                raise GaveUpError(str(error)) from error
        await asyncio.sleep(delay)


class _Cut(Exception):
    """The log's connection was cut."""

    def __init__(self, reason: str, received: int, at: float) -> None:
        super().__init__(reason)
        self.received = received
        self.time = at


async def _print_log(client: Any, job: str, printed: int) -> int:
    """Prints the log without its first `printed` characters, until it ends. Returns the number of its characters."""
    received, last = 0, 0.0
    try:
        async for text in client.tail_job_logs(job):
            start = max(0, printed - received)
            received, last = received + len(text), time.monotonic()
            if start < len(text):
                print(text[start:], end="", flush=True)
    except NoAnswerError as error:
        raise _Cut(str(error), received, last) from error
    return received

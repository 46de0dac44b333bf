"""Writing checkpoints of the learner, in the background and by Ray tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from actors.files import join
from pipelines.policy.call_limit import CallAbandonedError
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.light_tasks import clear_checkpoint, complete_checkpoint, store_file
from pipelines.policy.supervision import Supervision

MAX_FAILED_WRITES = 3
"""Checkpoints in a row that may fail to be written."""

States = Mapping[str, "ray.ObjectRef[np.ndarray]"]
"""File name -> reference to its content, uint8 [bytes]."""

Write = Callable[[Checkpoints, Manifest, States, Collection[int]], Awaitable[None]]
"""Writes a checkpoint, as `write_checkpoint` does."""


async def write_checkpoint(
    checkpoints: Checkpoints, manifest: Manifest, states: States, pinned: Collection[int] = ()
) -> None:
    """Stores the state of each rank, then removes old checkpoints. Versions in `pinned` are not removed.

    Ray tasks do all of it, so that a file system which does not answer cannot stop the driver. If this is cancelled, so
    are the tasks.

    If writing fails, this raises OSError or RayError and removes what was written of the version. Older checkpoints are
    not touched before the new one is complete.
    """
    folder, version = checkpoints.folder(manifest.version), manifest.version
    tasks: list[ray.ObjectRef[Any]] = [clear_checkpoint.remote(checkpoints, version)]
    try:
        await tasks[0]
        stored = [store_file.remote(join(folder, name), state) for name, state in states.items()]
        tasks += stored
        files = dict(zip(states, await asyncio.gather(*stored), strict=True))
        tasks.append(complete_checkpoint.remote(checkpoints, replace(manifest, files=files), tuple(pinned)))
        if warning := await tasks[-1]:
            logging.warning("old checkpoints in %s cannot be removed: %s", checkpoints.location, warning)
    except asyncio.CancelledError:
        for task in tasks:
            ray.cancel(task, force=True)
        raise
    except (OSError, RayError):
        await asyncio.gather(*tasks, return_exceptions=True)  # otherwise some would write after the removal
        with suppress(OSError, RayError):
            await clear_checkpoint.remote(checkpoints, version)
        raise


class AsyncCheckpointWriter:
    """Writes checkpoints in the background, one at a time. A few may fail, because the next one replaces them."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        log: Callable[[str], None],
        write: Write = write_checkpoint,
        supervision: Supervision | None = None,
    ) -> None:
        """`supervision` limits the time of a write; None: the usual limits."""
        self._checkpoints, self._log, self._write = checkpoints, log, write
        self._supervision = supervision or Supervision()
        self._writing: asyncio.Task[None] | None = None
        self._version = 0
        self._failed = 0

    async def start(self, manifest: Manifest, states: States, pinned: Collection[int] = ()) -> None:
        """Waits for the checkpoint before this one, then starts writing this one. `pinned`: versions to keep."""
        await self.finish()
        self._version = manifest.version
        self._writing = asyncio.create_task(self._write_in_time(manifest, states, pinned))

    async def _write_in_time(self, manifest: Manifest, states: States, pinned: Collection[int]) -> None:
        async with self._supervision.limits.limit("checkpoint"):
            await self._write(self._checkpoints, manifest, states, pinned)

    async def finish(self) -> None:
        """Waits for the current write. Raises its error if `MAX_FAILED_WRITES` in a row have failed.

        A write that does not end in time is abandoned, and counts as failed.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            await writing
        except (OSError, RayError, CallAbandonedError) as error:
            self._failed += 1
            self._supervision.checkpoints_missed += 1
            reason = str(error).splitlines()[-1]
            self._log(f"checkpoint of version {self._version} was not written, older ones are kept: {reason}")
            if self._failed == MAX_FAILED_WRITES:
                raise
        else:
            self._failed = 0

"""Writing checkpoints of the learner, in the background and by Ray tasks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, replace

import ray
from ray.exceptions import ObjectLostError, RayActorError

from actors.files import digest, join, write_file
from pipelines.policy.checkpoint import MANIFEST, Checkpoints, Manifest

MAX_FAILED_WRITES = 3
"""Checkpoints in a row that may fail to be written."""

Store = Callable[[str, "ray.ObjectRef[bytes]"], Awaitable[str]]
"""Writes content to a location outside of this process. Returns its SHA-256."""


async def write_checkpoint(
    checkpoints: Checkpoints,
    manifest: Manifest,
    states: Mapping[str, ray.ObjectRef[bytes]],
    pinned: Collection[int] = (),
    store: Store | None = None,
) -> None:
    """Stores the state of each rank (file name -> reference to bytes), then removes old checkpoints.

    Versions in `pinned` are not removed. `store` writes one file; None: a Ray task does.

    If writing fails, this raises OSError, RayActorError or ObjectLostError and removes what was written of the
    version. Older checkpoints are not touched before the new one is complete.
    """
    folder = checkpoints.folder(manifest.version)
    checkpoints.remove(manifest.version)
    try:
        store = store or store_file.remote
        stored = (store(join(folder, name), state) for name, state in states.items())
        complete = replace(manifest, files=dict(zip(states, await asyncio.gather(*stored), strict=True)))
        write_file(join(folder, MANIFEST), json.dumps(asdict(complete), indent=1).encode())
    except (OSError, RayActorError, ObjectLostError):
        checkpoints.remove(manifest.version)
        raise
    try:
        checkpoints.prune(manifest.version, pinned)
    except OSError as error:
        logging.warning("old checkpoints in %s cannot be removed: %s", checkpoints.location, error)


class AsyncCheckpointWriter:
    """Writes checkpoints in the background, one at a time. A few may fail, because the next one replaces them."""

    def __init__(self, checkpoints: Checkpoints, log: Callable[[str], None], store: Store | None = None) -> None:
        self._checkpoints, self._log, self._store = checkpoints, log, store
        self._writing: asyncio.Task[None] | None = None
        self._version = 0
        self._failed = 0

    async def start(
        self, manifest: Manifest, states: Mapping[str, ray.ObjectRef[bytes]], pinned: Collection[int] = ()
    ) -> None:
        """Waits for the checkpoint before this one, then starts writing this one. `pinned`: versions to keep."""
        await self.finish()
        self._version = manifest.version
        self._writing = asyncio.create_task(write_checkpoint(self._checkpoints, manifest, states, pinned, self._store))

    async def finish(self) -> None:
        """Waits for the current write. Raises its error if `MAX_FAILED_WRITES` in a row have failed."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            await writing
        except (OSError, RayActorError, ObjectLostError) as error:
            self._failed += 1
            reason = str(error).splitlines()[-1]
            self._log(f"checkpoint of version {self._version} was not written, older ones are kept: {reason}")
            if self._failed == MAX_FAILED_WRITES:
                raise
        else:
            self._failed = 0


@ray.remote(num_cpus=0)
def store_file(location: str, content: bytes) -> str:
    """Writes a file in a Ray task, so that neither learner nor driver waits. Returns its SHA-256."""
    write_file(location, content)
    return digest(content)

"""Checkpoints of the learner, on any file system that pyarrow supports.

`<location>/<version>/rank-<r>.pt` is the state of one learner rank. `manifest.json` beside it is written last and by
rename. It makes the checkpoint complete, and holds the digests of the other files.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import ray
from ray.exceptions import ObjectLostError, RayActorError

from actors.files import (
    DamagedFileError,
    delete_folder,
    digest,
    exists,
    join,
    list_folder,
    read_checked,
    read_file,
    write_file,
)
from conf.settings import Settings
from pipelines.common.paths import run_paths

MANIFEST = "manifest.json"
MAX_FAILED_WRITES = 3
"""Checkpoints in a row that may fail to be written."""


@dataclass(frozen=True)
class Manifest:
    """What the driver needs to resume. The states of the ranks are in files beside it."""

    version: int
    training_seconds: float
    settings: dict[str, object]
    """What decides what is learned; see `run_identity`."""
    files: dict[str, str] = field(default_factory=dict[str, str])
    """File name -> SHA-256."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, location: str, keep: int, keep_every: int = 0) -> None:
        """`location`: a path or a URI. `keep`: number of newest checkpoints that are kept.

        `keep_every`: checkpoints whose version is a multiple of it are kept, too. 0: none.
        """
        self.location, self.keep, self.keep_every = location, keep, keep_every

    def folder(self, version: int) -> str:
        """The folder of the checkpoint of a version."""
        return join(self.location, f"{version:06d}")

    def complete(self) -> list[int]:
        """The versions whose checkpoints have a manifest, oldest first."""
        names = [name for name in list_folder(self.location) if name.isdigit()]
        return [int(name) for name in names if exists(join(self.folder(int(name)), MANIFEST))]

    def manifests(self) -> Iterator[Manifest]:
        """Yields the complete checkpoints, newest first. Skips unreadable manifests with a warning."""
        for version in reversed(self.complete()):
            try:
                yield Manifest(**json.loads(read_file(join(self.folder(version), MANIFEST))))
            except (FileNotFoundError, ValueError, TypeError) as error:
                self.skip_damaged(version, error)

    def newest(self) -> Manifest | None:
        """The newest checkpoint whose files have the digests of its manifest; None if there is none."""
        for manifest in self.manifests():
            folder = self.folder(manifest.version)
            try:
                for name, sha256 in manifest.files.items():
                    read_checked(join(folder, name), sha256)
            except (FileNotFoundError, DamagedFileError) as error:
                self.skip_damaged(manifest.version, error)
            else:
                return manifest
        return None

    def skip_damaged(self, version: int, error: Exception) -> None:
        """Warns that a checkpoint is damaged and that an older one is used."""
        logging.warning("checkpoint %s is damaged and is skipped: %s", self.folder(version), error)

    async def write(
        self, manifest: Manifest, states: Mapping[str, ray.ObjectRef[bytes]], pinned: Collection[int] = ()
    ) -> None:
        """Stores the state of each rank (file name -> reference to bytes), then removes old checkpoints.

        Versions in `pinned` are not removed.

        If writing fails, this raises OSError, RayActorError or ObjectLostError and removes what was written of the
        version. Older checkpoints are not touched before the new one is complete.
        """
        folder = self.folder(manifest.version)
        delete_folder(folder)
        try:
            stored = (store_file.remote(join(folder, name), state) for name, state in states.items())
            complete = replace(manifest, files=dict(zip(states, await asyncio.gather(*stored), strict=True)))
            write_file(join(folder, MANIFEST), json.dumps(asdict(complete), indent=1).encode())
        except (OSError, RayActorError, ObjectLostError):
            delete_folder(folder)
            raise
        try:
            self._prune(manifest.version, pinned)
        except OSError as error:
            logging.warning("old checkpoints in %s cannot be removed: %s", self.location, error)

    def _prune(self, newest: int, pinned: Collection[int]) -> None:
        """Removes the versions that need not be kept. Those after `newest` are damaged, or the run would be there."""
        versions = [version for version in self.complete() if version <= newest]
        regular = [version for version in versions if self.keep_every and version % self.keep_every == 0]
        kept = {self.folder(version) for version in {*versions[-self.keep :], *regular, *pinned}}
        for name in list_folder(self.location):
            if name.isdigit() and join(self.location, name) not in kept:
                delete_folder(join(self.location, name))

    def clear(self) -> None:
        """Removes all checkpoints of the run."""
        delete_folder(self.location)


class AsyncCheckpointWriter:
    """Writes checkpoints in the background, one at a time. A few may fail, because the next one replaces them."""

    def __init__(self, checkpoints: Checkpoints, log: Callable[[str], None]) -> None:
        self._checkpoints, self._log = checkpoints, log
        self._writing: asyncio.Task[None] | None = None
        self._version = 0
        self._failed = 0

    async def start(
        self, manifest: Manifest, states: Mapping[str, ray.ObjectRef[bytes]], pinned: Collection[int] = ()
    ) -> None:
        """Waits for the checkpoint before this one, then starts writing this one. `pinned`: versions to keep."""
        await self.finish()
        self._version = manifest.version
        self._writing = asyncio.create_task(self._checkpoints.write(manifest, states, pinned))

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


def run_checkpoints(settings: Settings) -> Checkpoints:
    """The checkpoints of the run, at `policy.checkpoint.dir` or in its run directory."""
    location = settings.policy.checkpoint.dir or str(run_paths(settings).checkpoints)
    if "://" not in location:
        location = str(Path(location).absolute())  # Ray's workers have other working directories
    return Checkpoints(location, settings.policy.checkpoint.keep, settings.policy.checkpoint.keep_every)

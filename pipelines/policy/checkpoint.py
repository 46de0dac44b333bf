"""Checkpoints: complete or not there at all, on any file system that pyarrow knows.

<location>/<version>/rank-<r>.pt is one learner rank's state; <location>/<version>/manifest.json, written last and by
rename, makes the checkpoint complete, and holds the digest of every other file.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
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
from pipelines.policy.fingerprint import input_fingerprints

MANIFEST = "manifest.json"
MAX_MISSED = 3  # checkpoints in a row that may fail to be written

RESUME_MAY_CHANGE = frozenset({
    "minutes", "rollout_actors", "min_rollout_actors", "rollout_threads", "rollout_cpus", "rollout_gpus",
    "rollout_nodes", "learner_threads", "learner_cpus", "learner_gpus", "learner_nodes", "learner_placement",
    "evaluate_every", "evaluate_prompts", "held_out_prompts", "checkpoint_every", "checkpoint_dir",
    "keep_checkpoints", "max_idle_updates", "resume",
    "sampling_groups", "sampling_rows", "replay_rows", "ratio_tolerance",
})  # fmt: skip
"""Policy settings that a resumed run may change: none of them touches the mathematics. The last line's decide how
forwards round: what mends a full memory, or a gate that is shut, must be open to a run that stopped for it."""

RESUME_MAY_CHANGE_FLUX = frozenset(
    {"model", "text_encoders_on_cpu", "gradient_checkpointing", "vae_decoding", "compile"}
)
"""The same of section `flux`; what the model holds is compared by its content."""


@dataclass(frozen=True)
class Manifest:
    """What the driver needs to go on; the learner's state lies beside it."""

    version: int
    training_seconds: float
    settings: dict[str, object]  # and what the run read: see `run_identity`
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256


def training_settings(settings: Settings) -> dict[str, object]:
    """The settings that decide what is learned, as JSON gives them back."""
    policy = {key: value for key, value in asdict(settings.policy).items() if key not in RESUME_MAY_CHANGE}
    flux = {f"flux.{key}": value for key, value in asdict(settings.flux).items() if key not in RESUME_MAY_CHANGE_FLUX}
    mix = {f"rewards.{key}": value for key, value in asdict(settings.rewards).items()}
    detector = {f"detector.{key}": getattr(settings.detector, key) for key in ("threshold", "margin")}
    return json.loads(json.dumps(policy | flux | mix | detector))


def run_identity(settings: Settings) -> dict[str, object]:
    """All that decides what is learned: the arithmetic, and the content of what the run reads."""
    return training_settings(settings) | input_fingerprints(settings)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, location: str, keep: int) -> None:
        self.location, self.keep = location, keep

    def folder(self, version: int) -> str:
        """Where the checkpoint of a version lies."""
        return join(self.location, f"{version:06d}")

    def complete(self) -> list[int]:
        """The versions whose checkpoints have a manifest, oldest first."""
        names = [name for name in list_folder(self.location) if name.isdigit()]
        return [int(name) for name in names if exists(join(self.folder(int(name)), MANIFEST))]

    def manifests(self) -> Iterator[Manifest]:
        """The complete checkpoints, newest first. One whose manifest cannot be read is passed over with a warning."""
        for version in reversed(self.complete()):
            try:
                yield Manifest(**json.loads(read_file(join(self.folder(version), MANIFEST))))
            except (FileNotFoundError, ValueError, TypeError) as error:
                self.skip_damaged(version, error)

    def newest(self) -> Manifest | None:
        """The newest checkpoint whose files are what was written, or None."""
        for manifest in self.manifests():
            folder = self.folder(manifest.version)
            try:
                for name, wanted in manifest.files.items():
                    read_checked(join(folder, name), wanted)
                return manifest
            except (FileNotFoundError, DamagedFileError) as error:
                self.skip_damaged(manifest.version, error)
        return None

    def skip_damaged(self, version: int, error: Exception) -> None:
        """Warns that a checkpoint is damaged and an older one will be taken."""
        logging.warning("checkpoint %s is damaged and passed over: %s", self.folder(version), error)

    async def write(self, manifest: Manifest, states: Mapping[str, ray.ObjectRef]) -> None:
        """Stores each rank's state (file name -> bytes, by reference), then prunes.

        Raises OSError, RayActorError or ObjectLostError, and leaves nothing of the version, where that fails; older
        checkpoints are not touched before the new one is complete.
        """
        folder = self.folder(manifest.version)
        delete_folder(folder)
        try:
            stored = (store.remote(join(folder, name), state) for name, state in states.items())
            complete = replace(manifest, files=dict(zip(states, await asyncio.gather(*stored), strict=True)))
            write_file(join(folder, MANIFEST), json.dumps(asdict(complete), indent=1).encode())
        except (OSError, RayActorError, ObjectLostError):
            delete_folder(folder)
            raise
        try:
            self._prune(manifest.version)
        except OSError as error:
            logging.warning("old checkpoints in %s cannot be removed: %s", self.location, error)

    def _prune(self, newest: int) -> None:
        """Leaves the `keep` last versions up to `newest`. Later ones are damaged: the run would have begun there."""
        kept = {self.folder(version) for version in [v for v in self.complete() if v <= newest][-self.keep :]}
        for name in list_folder(self.location):
            if name.isdigit() and join(self.location, name) not in kept:
                delete_folder(join(self.location, name))

    def clear(self) -> None:
        """Removes all of the run's checkpoints."""
        delete_folder(self.location)


class AsyncCheckpointWriter:
    """Writes checkpoints while training goes on, one at a time. Some may fail: the next one mends it."""

    def __init__(self, checkpoints: Checkpoints, log: Callable[[str], None]) -> None:
        self._checkpoints, self._log = checkpoints, log
        self._writing: asyncio.Task[None] | None = None
        self._version = 0
        self._missed = 0

    async def start(self, manifest: Manifest, states: Mapping[str, ray.ObjectRef]) -> None:
        """Waits for the checkpoint before, then starts this one."""
        await self.finish()
        self._version = manifest.version
        self._writing = asyncio.create_task(self._checkpoints.write(manifest, states))

    async def finish(self) -> None:
        """Waits for the checkpoint under way. Raises its error if `MAX_MISSED` of them in a row have failed."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            await writing
        except (OSError, RayActorError, ObjectLostError) as error:
            self._missed += 1
            self._log(f"no checkpoint of version {self._version}, the older ones stand: {str(error).splitlines()[-1]}")
            if self._missed == MAX_MISSED:
                raise
        else:
            self._missed = 0


@ray.remote(num_cpus=0)
def store(location: str, content: bytes) -> str:
    """Writes a file in a process of its own, so that neither learner nor driver waits. Returns its SHA-256."""
    write_file(location, content)
    return digest(content)


def run_checkpoints(settings: Settings) -> Checkpoints:
    """Where a run keeps its checkpoints."""
    location = settings.policy.checkpoint.dir or str(Path(settings.run_dir, "policy", "checkpoints"))
    if "://" not in location:
        location = str(Path(location).absolute())  # actors work in folders of their own
    return Checkpoints(location, settings.policy.checkpoint.keep)


def check_resumable(manifest: Manifest, settings: Settings) -> None:
    """Raises ValueError, naming every difference, if the run would go on with other arithmetic than it began with.

    A setting that is younger than the checkpoint had its default then.
    """
    now, then = run_identity(settings), training_settings(Settings()) | manifest.settings
    changed = [
        f"{key} was {then[key]!r} and is {now[key]!r}"
        for key in sorted(now.keys() & then.keys())
        if then[key] != now[key]
    ]
    if changed:
        raise ValueError(
            f"the checkpoint of version {manifest.version} belongs to other settings or sources: {'; '.join(changed)}. "
            "Set them back, choose another run_dir, or start anew with policy.resume=never"
        )

"""Checkpoints of the learner, on any file system that pyarrow supports.

`<location>/<version>/rank-<r>.pt` is the state of one learner rank. `manifest.json` beside it is written last and by
rename. It makes the checkpoint complete, and holds the digests of the other files. `<location>/start/lora.safetensors`
is what `policy.start_from` named. A marker in `<location>` names the run that it belongs to. Only files of these names
are ever deleted.

This module needs no Ray, so that commands can check what they are asked for before Ray is imported.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from actors.files import (
    DamagedFileError,
    delete_files,
    exists,
    join,
    list_folder,
    read_checked,
)
from actors.folders import Marker, claim_folder, require_replaceable
from actors.json_files import is_plain_name, read_record
from conf.partial import is_partial
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.common.run_folder import run_id

MANIFEST = "manifest.json"
START_FOLDER, START_FILE = "start", "lora.safetensors"
_FILE = re.compile(r"manifest\.json|rank-[0-9]+\.pt")
_VERSION = re.compile(r"[0-9]{6}|[1-9][0-9]{6,17}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """What the driver needs to resume. The states of the ranks are in files beside it."""

    version: int
    training_seconds: float
    settings: dict[str, object]
    """What decides what is learned; see `run_identity`."""
    files: dict[str, str] = field(default_factory=dict[str, str])
    """File name -> SHA-256."""

    def check(self, version: int) -> None:
        """Raises DamagedFileError unless this can be the manifest of the checkpoint of a version."""
        if self.version != version:
            raise DamagedFileError(f"its manifest is that of version {self.version}")
        if not (math.isfinite(self.training_seconds) and self.training_seconds >= 0):
            raise DamagedFileError(f"training_seconds must be a positive number, got {self.training_seconds}")
        if not self.files:
            raise DamagedFileError("its manifest names no files")
        for name, sha256 in self.files.items():
            if not is_plain_name(name) or not _SHA256.fullmatch(sha256):
                raise DamagedFileError(f"its manifest must name files of its folder with a SHA-256, got {name!r}")


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, location: str, keep: int, keep_every: int = 0) -> None:
        """`location`: a path or a URI. `keep`: number of newest checkpoints that are kept.

        `keep_every`: checkpoints whose version is a multiple of it are kept, too. 0: none.
        """
        self.location, self.keep, self.keep_every = location, keep, keep_every

    def folder(self, version: int) -> str:
        """The folder of the checkpoint of a version."""
        return join(self.location, self._name(version))

    def complete(self) -> list[int]:
        """The versions whose checkpoints have a manifest, oldest first."""
        return sorted(version for version in self._versions() if exists(join(self.folder(version), MANIFEST)))

    def claim(self, run: str, run_dir: str, *, resume: bool) -> None:
        """Marks the location as that of a run. Call it before the first write.

        Raises UserError if it holds anything else, or belongs to another run. Checkpoints without a marker, as version
        0.2.0 wrote them, are taken over if the run resumes from them, and must be inside `run_dir` otherwise.
        """
        may_be_ours = resume or Path(self.location).is_relative_to(run_dir)
        claim_folder(
            self.location,
            Marker("checkpoints", run, run_dir),
            "policy.checkpoint.dir",
            lambda name: may_be_ours and self._is_checkpoint(name),
        )

    def _is_checkpoint(self, name: str) -> bool:
        """Whether an entry of an unmarked location is a checkpoint of a run, complete or not, and nothing else."""
        if not _VERSION.fullmatch(name):
            return False
        files = list_folder(join(self.location, name))
        if not all(_is_ours(file) or is_partial(file) for file in files):
            return False
        return MANIFEST not in files or self._read(int(name)) is not None

    def _read(self, version: int) -> Manifest | None:
        """The manifest of a version. None, with a warning, if it cannot be one."""
        try:
            manifest = read_record(join(self.folder(version), MANIFEST), Manifest)
            manifest.check(version)
        except (FileNotFoundError, ValueError) as error:
            self.skip_damaged(version, error)
            return None
        return manifest

    def manifests(self) -> Iterator[Manifest]:
        """Yields the complete checkpoints, newest first. Skips unreadable manifests with a warning."""
        for version in reversed(self.complete()):
            if manifest := self._read(version):
                yield manifest

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

    def prune(self, newest: int, pinned: Collection[int]) -> None:
        """Removes the versions that need not be kept. Those after `newest` are damaged, or the run would be there."""
        versions = [version for version in self.complete() if version <= newest]
        regular = [version for version in versions if self.keep_every and version % self.keep_every == 0]
        kept = {self.folder(version) for version in {*versions[-self.keep :], *regular, *pinned}}
        for version in self._versions():
            if self.folder(version) not in kept:
                self.remove(version)

    def remove(self, version: int) -> None:
        """Removes the files that a run writes in the folder of a version."""
        delete_files(self.folder(version), _is_ours)

    def clear(self) -> None:
        """Removes all checkpoints of the run and its start, and nothing else."""
        for version in self._versions():
            self.remove(version)
        delete_files(join(self.location, START_FOLDER), lambda name: name == START_FILE)

    @property
    def start(self) -> str:
        """File: the LoRA of `policy.start_from` as the run keeps it, so that it can resume without the original."""
        return join(join(self.location, START_FOLDER), START_FILE)

    def _versions(self) -> list[int]:
        """The versions that have a folder, complete or not."""
        return [int(name) for name in list_folder(self.location) if _VERSION.fullmatch(name)]

    @staticmethod
    def _name(version: int) -> str:
        return f"{version:06d}"


def _is_ours(name: str) -> bool:
    """Whether a file of a checkpoint folder is one that a run writes."""
    return _FILE.fullmatch(name) is not None


def run_checkpoints(settings: Settings) -> Checkpoints:
    """The checkpoints of the run, at `policy.checkpoint.dir` or in its run directory."""
    location = settings.policy.checkpoint.dir or str(run_paths(settings).checkpoints)
    if "://" not in location:
        location = str(Path(location).absolute())  # Ray's workers have other working directories
    return Checkpoints(location, settings.policy.checkpoint.keep, settings.policy.checkpoint.keep_every)


def claim_checkpoints(settings: Settings) -> Checkpoints:
    """The checkpoints of the run, in a location that is marked as the run's. Raises what `Checkpoints.claim` raises."""
    checkpoints, paths = run_checkpoints(settings), run_paths(settings)
    checkpoints.claim(run_id(paths), str(paths.root), resume=settings.policy.resume == "auto")
    if settings.export.merged:
        require_replaceable(paths.merged)
    return checkpoints

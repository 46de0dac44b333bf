"""Checkpoints: complete or not there at all, on any file system that pyarrow knows.

<location>/<version>/rank-<r>.pt is written by each learner rank; <location>/<version>/manifest.json, written last and
by rename, makes the checkpoint complete.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.storage import delete_folder, exists, list_folder, read_file, write_file
from conf.settings import Settings

FREE_TO_CHANGE = frozenset({
    "minutes", "rollout_actors", "rollout_threads", "rollout_cpus", "rollout_gpus", "learner_threads", "learner_cpus",
    "learner_gpus", "evaluate_every", "evaluate_prompts", "held_out_prompts", "checkpoint_every", "checkpoint_dir",
    "keep_checkpoints", "resume",
})  # fmt: skip
"""Policy settings that a resumed run may change: none of them touches what is learned."""


@dataclass(frozen=True)
class Manifest:
    """What the driver needs to go on; the learner's state lies beside it."""

    version: int
    training_seconds: float
    settings: dict[str, object]  # of the arithmetic: see `arithmetic_of`


def arithmetic_of(settings: Settings) -> dict[str, object]:
    """The settings that decide what is learned, as JSON gives them back."""
    policy = {key: value for key, value in asdict(settings.policy).items() if key not in FREE_TO_CHANGE}
    flux = {f"flux.{key}": value for key, value in asdict(settings.flux).items() if key != "model"}
    return json.loads(json.dumps(policy | flux))


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, location: str, keep: int) -> None:
        self.location, self.keep = location.rstrip("/"), keep

    def folder(self, version: int) -> str:
        """Where the checkpoint of a version lies."""
        return f"{self.location}/{version:06d}"

    def _complete(self) -> list[int]:
        names = [name for name in list_folder(self.location) if name.isdigit()]
        return [int(name) for name in names if exists(f"{self.location}/{name}/manifest.json")]

    def newest(self) -> Manifest | None:
        """The newest complete checkpoint, or None."""
        complete = self._complete()
        if not complete:
            return None
        return Manifest(**json.loads(read_file(f"{self.folder(complete[-1])}/manifest.json")))

    async def write(self, manifest: Manifest, save: Callable[[str], Awaitable[None]]) -> None:
        """Has the learner `save` into the version's folder, completes it, and prunes what is older than `keep`."""
        folder = self.folder(manifest.version)
        delete_folder(folder)
        await save(folder)
        write_file(f"{folder}/manifest.json", json.dumps(asdict(manifest), indent=1).encode())
        kept = {self.folder(version) for version in self._complete()[-self.keep :]}
        for name in list_folder(self.location):
            if name.isdigit() and f"{self.location}/{name}" not in kept:
                delete_folder(f"{self.location}/{name}")

    def clear(self) -> None:
        """Removes all of the run's checkpoints."""
        delete_folder(self.location)


def run_checkpoints(settings: Settings) -> Checkpoints:
    """Where a run keeps its checkpoints."""
    location = settings.policy.checkpoint_dir or str(Path(settings.run_dir, "policy", "checkpoints").absolute())
    return Checkpoints(location, settings.policy.keep_checkpoints)


def check_resumable(manifest: Manifest, settings: Settings) -> None:
    """Raises ValueError, naming every difference, if the run would go on with other arithmetic than it began with."""
    now = arithmetic_of(settings)
    changed = [
        f"{key} was {manifest.settings.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(now.keys() | manifest.settings.keys())
        if manifest.settings.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"the checkpoint of version {manifest.version} belongs to other settings: {'; '.join(changed)}. "
            "Set them back, choose another run_dir, or start anew with policy.resume=never"
        )

"""Checkpoints of a policy without a run."""

from __future__ import annotations

import json

from actors.files import digest, join, write_file
from pipelines.policy.checkpoint import Checkpoints


def write_checkpoint_of(checkpoints: Checkpoints, version: int, state: bytes, /, **changes: object) -> str:
    """Writes a checkpoint of one rank, and returns its folder.

    `changes`: keys of its manifest that differ; ... removes a key.
    """
    folder = checkpoints.folder(version)
    manifest = {"version": version, "training_seconds": 1.0, "settings": {}, "files": {"rank-0.pt": digest(state)}}
    manifest = {key: value for key, value in {**manifest, **changes}.items() if value is not ...}
    write_file(join(folder, "rank-0.pt"), state)
    write_file(join(folder, "manifest.json"), json.dumps(manifest).encode())
    return folder

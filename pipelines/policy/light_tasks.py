"""Ray tasks of the driver that need no model: they write checkpoints, and join and cut images.

A process imports the module of the task that it runs. So these are apart from the modules that start actors, whose
imports of model libraries take many seconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import ray

from actors.files import digest, join, write_file
from pipelines.policy.checkpoint import MANIFEST, Checkpoints, Manifest


@ray.remote(num_cpus=0)
def clear_checkpoint(checkpoints: Checkpoints, version: int) -> None:
    """Removes what was written of a version."""
    checkpoints.remove(version)


@ray.remote(num_cpus=0)
def store_file(location: str, content: np.ndarray) -> str:
    """Writes a file without copying its content. Returns its SHA-256."""
    write_file(location, content.data)
    return digest(content.data)


@ray.remote(num_cpus=0)
def complete_checkpoint(checkpoints: Checkpoints, manifest: Manifest, pinned: tuple[int, ...]) -> str:
    """Writes the manifest, then removes old checkpoints. Returns why that failed; "" if it did not."""
    location = join(checkpoints.folder(manifest.version), MANIFEST)
    write_file(location, json.dumps(asdict(manifest), indent=1).encode())
    try:
        checkpoints.prune(manifest.version, pinned)
    except OSError as error:
        return str(error)
    return ""


@ray.remote(num_cpus=0)
def first_images(images: np.ndarray, count: int) -> np.ndarray:
    """Returns the first images, so that the driver receives only those."""
    return images[:count]


@ray.remote(num_cpus=0, max_retries=3)
def concatenate(*images: np.ndarray) -> np.ndarray:
    """Joins uint8 [B, H, W, 3] along B."""
    return np.concatenate(images)

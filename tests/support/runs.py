"""Run directories as commands find them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from conf import dump, load
from pipelines.common.paths import RunPaths


def make_run(folder: Path, preset: str = "scenes", overrides: Sequence[str] = (), age: float = 0) -> RunPaths:
    """A run directory in which settings were recorded `age` seconds ago, and nothing else."""
    paths = RunPaths(folder)
    dump(load(preset, overrides), paths.settings)
    written = paths.settings.stat().st_mtime - age
    for path in (paths.settings, folder):
        os.utime(path, (written, written))
    return paths

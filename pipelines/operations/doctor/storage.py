"""Where a run writes: files must appear whole, by a rename, and there must be room for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from actors.files import file_system, join, read_file, write_file
from conf import Settings
from pipelines.operations.doctor.finding import Finding

PROBE = "_doctor.txt"
LEAST_FREE = 0.1
"""Share of a disk, below which the alert on Prometheus rings too."""


def check_storage(settings: Settings) -> Iterator[Finding]:
    """Writes, renames, reads and removes a file in each place, and looks at the room on local disks."""
    places = {
        "run_dir": settings.run_dir,
        "policy.checkpoint.dir": settings.policy.checkpoint.dir,
        "budget.cache": settings.budget.cache,
    }
    for setting, location in places.items():
        if location:
            yield _writable(setting, location)
    folder = Path(settings.run_dir)
    if folder.is_dir():
        yield _room(folder)


def _writable(setting: str, location: str) -> Finding:
    probe = join(location, PROBE)
    try:
        write_file(probe, b"whole")
        whole = read_file(probe) == b"whole"
        system, path = file_system(probe)
        system.delete_file(path)
    except (OSError, ValueError) as error:  # ValueError: pyarrow knows no such kind of URI
        reason = str(error).partition(". Detail")[0]
        mend = f"set {setting} to a folder, or a URI that pyarrow.fs knows, that you may write to"
        return Finding(False, f"{setting}={location} takes no files: {reason}", mend)
    return Finding(whole, f"{setting}={location} takes files, whole or not at all", f"set {setting} to another place")


def _room(folder: Path) -> Finding:
    disk = shutil.disk_usage(folder)
    left = f"{disk.free / 1e9:.0f} GB ({disk.free / disk.total:.0%}) are free under {folder}"
    mend = f"at least {LEAST_FREE:.0%} should be: remove old runs, or set run_dir to a larger disk"
    return Finding(disk.free / disk.total >= LEAST_FREE, left, mend)

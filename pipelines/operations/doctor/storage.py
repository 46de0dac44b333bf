"""Checks the folders that a run writes to: files must appear complete, by a rename, and the disk must have space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from actors.files import file_system, join, read_file, write_file
from conf import Settings, UserError
from conf.partial import partial_path
from pipelines.common.disk_faults import require_writable
from pipelines.operations.doctor.finding import Finding

MIN_FREE_FRACTION = 0.1
"""Free fraction of a disk below which the check fails. The alert RunDiskNearlyFull uses the same limit."""


def check_storage(settings: Settings, min_free_fraction: float = MIN_FREE_FRACTION) -> Iterator[Finding]:
    """Writes, renames, reads and removes a file in each folder, and checks the free space of the run's disk."""
    locations = {
        "run_dir": settings.run_dir,
        "policy.checkpoint.dir": settings.policy.checkpoint.dir,
        "budget.cache": settings.budget.cache,
        "preferences.masters": settings.preferences.masters,
    }
    for setting, location in locations.items():
        if location:
            yield _check_writable(setting, location)
    folder = Path(settings.run_dir).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    yield _check_free_space(existing, min_free_fraction)


def _check_writable(setting: str, location: str) -> Finding:
    """Leaves nothing behind: a folder that the check had to create is removed again."""
    complete = True
    try:
        system, path = file_system(location)
        if system.type_name == "local":
            require_writable(Path(path), setting)
        else:
            complete = _write_and_read(location)
    except (OSError, ValueError, UserError) as error:  # ValueError: pyarrow does not know this kind of URI
        reason = str(error.__cause__ or error).partition(". Detail")[0]
        fix = f"set {setting} to a folder, or a URI that pyarrow.fs supports, that you may write to"
        return Finding(False, f"{setting}={location} is not writable: {reason}", fix)
    return Finding(complete, f"{setting}={location} is writable", f"set {setting} to a folder on another disk")


def _write_and_read(location: str) -> bool:
    """Whether a file of a folder, given by its URI, has its content as soon as it is written."""
    probe = join(location, partial_path("doctor"))
    write_file(probe, b"complete")
    complete = read_file(probe) == b"complete"
    system, path = file_system(probe)
    system.delete_file(path)
    return complete


def _check_free_space(folder: Path, min_free_fraction: float) -> Finding:
    disk = shutil.disk_usage(folder)
    message = f"disk of {folder}: {disk.free / 1e9:.0f} GB free ({disk.free / disk.total:.0%})"
    fix = f"at least {min_free_fraction:.0%} must be free: remove old runs, or set run_dir to a folder on a larger disk"
    return Finding(disk.free / disk.total >= min_free_fraction, message, fix)

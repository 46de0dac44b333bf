"""The folder that `submit` sends: whether it is this project, and which commit it holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conf import SettingsError

REQUIRED = ("pipelines/cli.py", "conf/settings.py")
"""Files that the job's command needs in the folder. Without them nodes would run the version of their image."""


def check_folder(folder: str) -> None:
    """Raises SettingsError unless `folder` is a URI or this project."""
    if "://" in folder:
        return
    if not Path(folder).is_dir():
        raise SettingsError(f"submit.working_dir must be a folder, got {folder}")
    missing = [name for name in REQUIRED if not (Path(folder) / name).is_file()]
    if missing:
        raise SettingsError(
            f"submit.working_dir must be the folder of this repository, got {Path(folder).resolve()}, which has no "
            f"{missing[0]}: nodes would run other code. Call submit there, or set submit.working_dir to it"
        )


def git_state(folder: str) -> str:
    """The commit of a folder, and whether files differ from it; "" if it is unknown."""
    if "://" in folder:
        return ""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit} with uncommitted changes" if changed else commit


def _git(folder: str, *words: str) -> str:
    result = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10, check=True)
    return result.stdout.strip()


def describe_upload(folder: str, sent_bytes: int, commit: str) -> str:
    """One line about what was sent."""
    size = f"sent {sent_bytes / 1e6:.1f} MB" if sent_bytes else "the cluster already has the files"
    where = folder if "://" in folder else str(Path(folder).resolve())
    return f"{size} of {where}, commit {commit or 'unknown'}"

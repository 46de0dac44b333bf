"""`benchmark fetch`: the published files, from git at pinned commits, into `benchmark.data`.

A commit's id is a digest of its whole content, which git verifies while it fetches. Nothing that is fetched is run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.folders import require_replaceable, write_folder
from actors.json_files import object_or_none
from conf import SettingsError, UserError
from conf.settings import Settings
from pipelines.benchmark.catalogue import find_benchmark, find_source
from pipelines.benchmark.items import Source
from pipelines.common.progress_line import ProgressLine
from pipelines.common.terminal import print_warning

RECORD = "_source.json"
"""File of a benchmark's folder that says where its files come from."""
TIMEOUT_S = 1800
"""Seconds for one command of git."""
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}


def fetch(settings: Settings, log: Callable[[str], None] = print) -> None:
    """Fetches the files of all benchmarks in `benchmark.names` that are not there, and checks them.

    Shows the licence of each. Raises SettingsError if `benchmark.data` is empty, UserError if git fails.
    """
    cfg = settings.benchmark
    if not cfg.data:
        raise SettingsError(
            "benchmark.data must name the folder to fill, got none: write e.g. benchmark.data=benchmarks"
        )
    folders = {name: find_benchmark(name).folder for name in cfg.names}
    for folder in dict.fromkeys(folders.values()):
        names = [name for name in cfg.names if folders[name] == folder]
        source, target = find_source(names[0]), Path(cfg.data).absolute() / folder
        log(f"{folder}: {source.repository} at {source.commit[:12]}; licence: {source.licence}")
        if source.warning:
            print_warning(f"{folder}: {source.warning}")
        if read_source(target) == source.commit:
            log(f"{folder}: already in {target}")
        else:
            with ProgressLine("benchmark fetch", log) as progress:
                progress.phase(f"fetching {source.repository}")
                fetch_source(source, target, cfg.mirror)
            log(f"{folder}: saved in {target}")
        for name in names:
            for problem in find_benchmark(name, cfg.tiif_set).check(target):
                print_warning(f"{name}: {problem.text}")


def fetch_source(source: Source, target: Path, mirror: str) -> None:
    """Writes the files of a source, and where they come from, to the folder `target`, which is replaced as a whole.

    `mirror`: address in front of the repository's owner/name. Raises UserError if git fails.
    """
    require_replaceable(target)
    with tempfile.TemporaryDirectory(prefix="spatialt2i-") as scratch:
        clone = Path(scratch, "clone")
        _git(["init", "--quiet", str(clone)])
        address = f"{mirror.rstrip('/')}/{source.repository}"
        git = ["-C", str(clone), "-c", "transfer.fsckObjects=true", "-c", "core.symlinks=false"]
        _git([*git, "fetch", "--quiet", "--depth=1", "--no-tags", address, source.commit])
        found = _git([*git, "rev-parse", "FETCH_HEAD"]).strip()
        if found != source.commit:
            raise UserError(f"{address} answers with commit {found} instead of {source.commit}: check benchmark.mirror")
        _git([*git, "checkout", "--quiet", source.commit, "--", *source.paths])

        def write(folder: Path) -> None:
            for path in source.paths:
                _copy(clone / path, folder / path)
            record = {"repository": source.repository, "commit": source.commit, "licence": source.licence}
            (folder / RECORD).write_text(json.dumps(record, indent=1))

        write_folder(target, write)


def read_source(folder: Path) -> str:
    """The commit that a folder was fetched from; "" if it was not fetched."""
    record = object_or_none(str(folder / RECORD)) if (folder / RECORD).is_file() else None
    return str(record.get("commit", "")) if record else ""


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, target)


def _git(arguments: Sequence[str]) -> str:
    """Runs git and returns its output. Raises UserError with git's own message if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env={**os.environ, **_ENVIRONMENT},
        )
    except FileNotFoundError as error:
        raise UserError(
            "`benchmark fetch` needs git: install it, or put the files into benchmark.data by hand"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"git gave no result within {TIMEOUT_S} s: check the network, and start again") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise UserError(
            f"git {next(word for word in arguments if word in ('init', 'fetch', 'rev-parse', 'checkout'))} failed "
            f"({lines[-1] if lines else f'exit code {done.returncode}'}): check the network and benchmark.mirror, or "
            "clone the repository by hand, see docs/benchmarks.md"
        )
    return done.stdout

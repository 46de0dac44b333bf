"""Who may write to a run directory: what a verb does before its first write, and around all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.folders import MARKER, Marker, read_marker, remove_abandoned, write_marker
from conf.errors import UserError
from conf.load import is_recorded
from conf.settings import Settings
from pipelines.common.disk_faults import explain_disk_faults, require_writable
from pipelines.common.lease import Lease, hold_lease
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.stage_paths import Stage


@contextmanager
def driving(settings: Settings, *stages: Stage, log: Callable[[str], None] = print) -> Generator[None]:
    """Inside the block, this process is the only one that runs stages of the run. Blocks can be nested.

    Raises UserError, before anything is written, if the run directory cannot be written, is in use by another driver,
    or holds files of somebody else that a stage would replace. Removes what killed writers left. Faults of the disk
    inside the block become UserErrors, too.
    """
    paths = run_paths(settings)
    if paths.lease.resolve() in Lease.held:
        yield
        return
    require_writable(paths.root, keep=True)
    _require_own(paths, stages)
    checkpoints = settings.policy.checkpoint.dir
    with explain_disk_faults(paths.root, *([Path(checkpoints)] if checkpoints and "://" not in checkpoints else [])):
        run_id(paths)
        with hold_lease(paths.lease, settings.take_over, log):
            remove_abandoned(paths.root)
            yield


@contextmanager
def writing(settings: Settings, *others: Path) -> Generator[None]:
    """Around a verb that writes to a run directory, and to other folders, beside a driver that may be at work.

    Raises UserError if one of them cannot be written, at the start and later.
    """
    root = run_paths(settings).root
    for folder in (root, *others):
        require_writable(folder, "run_dir" if folder == root else "the output folder")
    with explain_disk_faults(root, *others):
        yield


def run_id(paths: RunPaths) -> str:
    """The id of a run, which stays the same if its directory is moved. Makes one if it has none."""
    marker = read_marker(str(paths.root))
    if marker is None:
        marker = Marker("run", uuid.uuid4().hex, str(paths.root))
        write_marker(str(paths.root), marker)
    if marker.kind != "run":
        raise UserError(f"run_dir={paths.root} is a folder of another kind ({marker.kind}): choose another run_dir")
    return marker.run


def _require_own(paths: RunPaths, stages: tuple[Stage, ...]) -> None:
    """Raises UserError if the folder is not a run and holds files that the stages would replace."""
    settings = paths.settings
    if settings.exists() and not is_recorded(settings):
        raise UserError(
            f"{settings} was not written by spatialt2i and would be replaced: rename it, or choose another run_dir"
        )
    if settings.exists() or (paths.root / MARKER).exists():
        return
    if foreign := [path for stage in stages for path in _replaced(paths, stage) if path.exists()]:
        raise UserError(
            f"{paths.root} is not a run of spatialt2i, but it holds {foreign[0].relative_to(paths.root)}, which would "
            "be replaced: choose another run_dir"
        )


def _replaced(paths: RunPaths, stage: Stage) -> Iterator[Path]:
    """Files that a stage replaces or appends to in a new run."""
    yield from {
        "preferences": (paths.preferences_manifest, paths.preferences_report),
        "reward": (paths.reward_metrics, paths.reward_unreadable),
        "policy": (paths.metrics, paths.evaluations, paths.drivers),
        "evaluation": (paths.evaluation_report, paths.evaluation_tables, paths.evaluation_results),
    }[stage]

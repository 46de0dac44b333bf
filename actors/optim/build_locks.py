"""Locks that killed processes leave in the cache of compiled torch extensions.

DeepSpeed compiles an extension at its first use, and PyTorch guards the build by a file that the other ranks wait for.
If the process that compiles is killed, nobody removes the file, and every later start waits without end.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

STALE_AFTER_S = 15 * 60.0
"""Age of a lock that no build still holds: DeepSpeed's extensions compile in one or two minutes."""
ABANDONED_AFTER_S = 30.0
"""The same on a disk of this machine, if no process of it has the lock open, as the one that compiles has."""
LOOK_S = 5.0
_NETWORK = ("nfs", "lustre", "gpfs", "ceph", "cifs", "smb", "fuse", "9p", "beegfs", "wekafs", "virtiofs")
"""Starts of the types of file systems on which a process of another machine may compile."""


def extension_cache() -> Path:
    """Where PyTorch keeps compiled extensions: $TORCH_EXTENSIONS_DIR, or a folder of the user's cache."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def remove_stale_build_locks(cache: Path | None = None) -> list[Path]:
    """Removes DeepSpeed's build locks that no build holds any more, with a warning. Returns their paths."""
    removed: list[Path] = []
    root = cache or extension_cache()
    for lock in (*root.glob("deepspeed_*/lock"), *root.glob("*/deepspeed_*/lock")):  # by Python version, by default
        try:
            age = time.time() - lock.stat().st_mtime
            if age < ABANDONED_AFTER_S or (age < STALE_AFTER_S and (_is_on_network(lock) or _is_open(lock))):
                continue
            lock.unlink()
        except OSError:  # another rank was faster, or the file is another user's
            continue
        removed.append(lock)
        logging.getLogger(__name__).warning("removed %s, the build lock of a process that was killed", lock)
    return removed


@contextmanager
def removing_stale_build_locks() -> Generator[None]:
    """Inside the block such locks are removed all the time: a process that waits for one waits without end."""
    ended = threading.Event()

    def repeat() -> None:
        remove_stale_build_locks()
        while not ended.wait(LOOK_S):
            remove_stale_build_locks()

    thread = threading.Thread(target=repeat, name="build locks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_open(lock: Path) -> bool:
    """Whether a process of this machine that can be seen has the file open."""
    found = lock.stat()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it ended, or belongs to another user
            if os.path.samestat(link.stat(), found):
                return True
    return False


def _is_on_network(path: Path) -> bool:
    """Whether a file lies on a network file system, or where that cannot be seen."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return True
    holding = [(len(folder), kind) for _, folder, kind, *_ in mounts if path.resolve().is_relative_to(folder)]
    return max(holding)[1].startswith(_NETWORK) if holding else True

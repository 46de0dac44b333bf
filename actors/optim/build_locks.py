"""Locks that killed processes leave in the cache of compiled torch extensions.

DeepSpeed compiles an extension at its first use, and PyTorch guards the build by a file that the other ranks wait for.
If the process that compiles is killed, nobody removes the file, and every later start waits without end.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

STALE_AFTER_S = 15 * 60.0
"""Age of a lock that no build still holds: DeepSpeed's extensions compile in one or two minutes."""


def extension_cache() -> Path:
    """Where PyTorch keeps compiled extensions: $TORCH_EXTENSIONS_DIR, or a folder of the user's cache."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def remove_stale_build_locks(cache: Path | None = None) -> list[Path]:
    """Removes DeepSpeed's build locks that are older than `STALE_AFTER_S`, with a warning. Returns their paths."""
    removed: list[Path] = []
    root = cache or extension_cache()
    for lock in (*root.glob("deepspeed_*/lock"), *root.glob("*/deepspeed_*/lock")):  # by Python version, by default
        try:
            if time.time() - lock.stat().st_mtime < STALE_AFTER_S:
                continue
            lock.unlink()
        except OSError:  # another rank was faster, or the file is another user's
            continue
        removed.append(lock)
        logging.getLogger(__name__).warning("removed %s, the build lock of a process that was killed", lock)
    return removed

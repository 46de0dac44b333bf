"""Stage 1 at full size in the scenes world, with a kill -9 of an actor and one of the driver in the middle.

    python -m tests.bench.preferences_at_size 8000 80000 [section.key=value ...]

makes sets of these sizes one after the other and prints time, pairs/s, peak memory of all processes together and bytes
on disk. The smallest set is made a second time, undisturbed, and must be the same. 80,000 pairs take a quarter of an
hour on two idle cores.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from conf import load
from pipelines.preferences.dataset.shards import plan_shards
from tests.support.kill import titled

ACTOR = "BaseGenerator"  # in the title of the processes that hold the base FLUX
NEVER = 2.0  # as a share of the shards
MIB = 1 << 20


@dataclass
class Watch:
    """What was seen of a build's processes from outside."""

    peak: int = 0  # bytes of all of them at once; shared memory counts once
    seconds: float = 0.0  # over all starts
    kills: str = ""


def build(
    command: Sequence[str], reports: Path, shards: int, kill_actor: float, kill_driver: float, seen: Watch
) -> bool:
    """One start of a build; whether it came to its end. `kill_…`: when this share of the shards is done."""
    started = time.perf_counter()
    driver = psutil.Popen(command)
    actors: list[psutil.Process] = []
    told = 0.0
    while driver.poll() is None:
        tree = [driver, *_children(driver)]
        actors = list(titled(tree, ACTOR))
        seen.peak = max(seen.peak, sum(map(_memory, tree)))
        done = len(list(reports.glob("*.json"))) / shards
        if done >= told + 0.05:
            told, minutes = done, (seen.seconds + time.perf_counter() - started) / 60
            print(f"AT SIZE  {done:.0%} after {minutes:.1f} min, peak {seen.peak / MIB:.0f} MiB so far", flush=True)
        if done >= kill_actor and actors:
            actors[0].kill()
            kill_actor, seen.kills = NEVER, f"{seen.kills} actor at {done:.0%}"
        if done >= kill_driver:
            driver.kill()
            seen.kills = f"{seen.kills} driver at {done:.0%}"
            driver.wait()
        time.sleep(1.0)
    seen.seconds += time.perf_counter() - started
    _, left = psutil.wait_procs(actors, timeout=60)  # Ray's own agents may take longer to notice
    if left := [process for process in left if _lives(process)]:
        raise RuntimeError(f"these outlived their driver: {left}")
    if driver.returncode not in (0, -9):
        raise RuntimeError(f"the build ended with code {driver.returncode}")
    return driver.returncode == 0


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _memory(process: psutil.Process) -> int:
    """Proportional set size in bytes; 0 for a process that is gone."""
    with suppress(psutil.Error, OSError):
        return process.memory_full_info().pss
    return 0


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE  # not yet collected by init
    return False


def measure(pairs: int, run_dir: Path, words: Sequence[str], disturbed: bool) -> str:
    """Makes a set, prints a line of the table, and returns the digest of its rows.

    Raises RuntimeError if a row is lost or there twice.
    """
    words = [f"run_dir={run_dir}", f"preferences.pairs={pairs}", *words]
    shards = len(plan_shards(load("scenes", words).preferences))
    command = [sys.executable, "-m", "pipelines.cli", "preferences", "build", "scenes", *words]
    folder, seen = run_dir / "preferences", Watch()
    starts = [(1 / 3, 1 / 2), (NEVER, NEVER)] if disturbed else [(NEVER, NEVER)]
    finished = [build(command, folder / ".shards", shards, *kills, seen) for kills in starts]
    if not finished[-1]:
        raise RuntimeError("the last start did not come to its end")
    manifest = json.loads((folder / "_manifest.json").read_text())
    columns = ["pair_id", "split", "image_w.sha256", "image_l.sha256"]
    rows = sorted(
        str(row) for path in folder.glob("*.parquet") for row in pq.read_table(path, columns=columns).to_pylist()
    )
    gone = {name: manifest[name] for name in ("rejected", "near_duplicate_prompts", "near_duplicate_pictures")}
    if len(set(rows)) != len(rows) or len(rows) + sum(gone.values()) != pairs:
        raise RuntimeError(f"{pairs} rows were asked for, {len(rows)} are there, {len(set(rows))} different, {gone}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"AT SIZE  {pairs} pairs: {seen.seconds:.0f} s, {pairs / seen.seconds:.1f} pairs/s, "
        f"peak {seen.peak / MIB:.0f} MiB, {size / MIB:.0f} MiB on disk, {len(rows)} kept, {gone}; "
        f"killed:{seen.kills or ' nothing'}",
        flush=True,
    )
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def main() -> None:
    """See the module."""
    sizes = [int(word) for word in sys.argv[1:] if word.isdigit()] or [8000, 80000]
    words = [word for word in sys.argv[1:] if not word.isdigit()]
    with tempfile.TemporaryDirectory() as folder:
        digests = {size: measure(size, Path(folder) / str(size), words, disturbed=True) for size in sizes}
        undisturbed = measure(min(sizes), Path(folder) / "undisturbed", words, disturbed=False)
    same = "the same" if digests[min(sizes)] == undisturbed else "OTHER PAIRS"
    print(f"AT SIZE  {min(sizes)} pairs with and without kills are {same}")


if __name__ == "__main__":
    main()

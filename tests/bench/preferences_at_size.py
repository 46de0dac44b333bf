"""Stage 1 at full size in the scenes world, with a kill -9 of an actor and of the driver on the way.

    python -m tests.bench.preferences_at_size 8000 80000 [section.key=value ...]

builds datasets of these sizes one after the other and prints the time, pairs/s, the peak memory of all processes
together, and the bytes on disk. The smallest dataset is built a second time without kills and must be the same. 80,000
pairs take a quarter of an hour on two idle cores.
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
from pipelines.common.paths import RunPaths
from pipelines.preferences.dataset.shards import plan_shards
from tests.bench.process_memory import MIB, memory_of, tree_of
from tests.support.kill import titled

ACTOR = "BasePolicyActor"  # in the title of the processes that hold the base FLUX
NEVER = 2.0  # as a fraction of the shards


@dataclass(frozen=True)
class Kills:
    """The fractions of finished shards at which to kill an actor and the driver."""

    actor: float = NEVER
    driver: float = NEVER


@dataclass
class Measurements:
    """Measurements of a build's processes from outside."""

    peak: int = 0  # bytes of all of them at once; shared memory counts once
    seconds: float = 0.0  # over all starts
    kills: str = ""


def run_build(command: Sequence[str], reports: Path, shards: int, kills: Kills, measurements: Measurements) -> bool:
    """Starts a build once and measures it. Returns whether it finished."""
    started = time.perf_counter()
    driver = psutil.Popen(command)
    actors: list[psutil.Process] = []
    logged, kill_actor = 0.0, kills.actor
    while driver.poll() is None:
        tree = tree_of(driver)
        actors = list(titled(tree, ACTOR))
        measurements.peak = max(measurements.peak, sum(map(memory_of, tree)))
        done = len(list(reports.glob("[0-9]*.json"))) / shards
        if done >= logged + 0.05:
            logged, minutes = done, (measurements.seconds + time.perf_counter() - started) / 60
            peak = measurements.peak / MIB
            print(f"AT SIZE  {done:.0%} after {minutes:.1f} min, peak {peak:.0f} MiB so far", flush=True)
        if done >= kill_actor and actors:
            actors[0].kill()
            kill_actor, measurements.kills = NEVER, f"{measurements.kills} actor at {done:.0%}"
        if done >= kills.driver:
            driver.kill()
            measurements.kills = f"{measurements.kills} driver at {done:.0%}"
            driver.wait()
        time.sleep(1.0)
    measurements.seconds += time.perf_counter() - started
    _, left = psutil.wait_procs(actors, timeout=60)  # Ray's own agents may take longer to end
    if left := [process for process in left if _is_alive(process)]:
        raise RuntimeError(f"these processes outlived their driver: {left}")
    if driver.returncode not in (0, -9):
        raise RuntimeError(f"the build ended with code {driver.returncode}")
    return driver.returncode == 0


def measure(pairs: int, run_dir: Path, overrides: Sequence[str], disturbed: bool) -> str:
    """Builds a dataset, prints a line of the table, and returns the digest of its rows.

    Raises RuntimeError if a row is lost or doubled.
    """
    overrides = [f"run_dir={run_dir}", f"preferences.pairs={pairs}", *overrides]
    shards = len(plan_shards(load("scenes", overrides).preferences))
    command = [sys.executable, "-m", "pipelines.cli", "preferences", "build", "scenes", *overrides]
    paths, measurements = RunPaths(run_dir), Measurements()
    starts = [Kills(actor=1 / 3, driver=1 / 2), Kills()] if disturbed else [Kills()]
    finished = [run_build(command, paths.preferences_shards, shards, kills, measurements) for kills in starts]
    if not finished[-1]:
        raise RuntimeError("the last start did not finish")
    manifest = json.loads(paths.preferences_manifest.read_text())
    columns = ["pair_id", "split", "image_w.sha256", "image_l.sha256"]
    files = paths.preferences.glob("*.parquet")
    rows = sorted(str(row) for path in files for row in pq.read_table(path, columns=columns).to_pylist())
    dropped = {name: manifest[name] for name in ("rejected", "near_duplicate_prompts", "near_duplicate_images")}
    if len(set(rows)) != len(rows) or len(rows) + sum(dropped.values()) != pairs:
        raise RuntimeError(f"expected {pairs} rows, got {len(rows)}, of which {len(set(rows))} differ; {dropped}")
    size = sum(path.stat().st_size for path in paths.preferences.rglob("*") if path.is_file())
    print(
        f"AT SIZE  {pairs} pairs: {measurements.seconds:.0f} s, {pairs / measurements.seconds:.1f} pairs/s, "
        f"peak {measurements.peak / MIB:.0f} MiB, {size / MIB:.0f} MiB on disk, {len(rows)} kept, {dropped}; "
        f"killed:{measurements.kills or ' nothing'}",
        flush=True,
    )
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def main() -> None:
    """See the docstring of the module."""
    sizes = [int(word) for word in sys.argv[1:] if word.isdigit()] or [8000, 80000]
    overrides = [word for word in sys.argv[1:] if not word.isdigit()]
    with tempfile.TemporaryDirectory() as folder:
        digests = {size: measure(size, Path(folder) / str(size), overrides, disturbed=True) for size in sizes}
        undisturbed = measure(min(sizes), Path(folder) / "undisturbed", overrides, disturbed=False)
    result = "the same" if digests[min(sizes)] == undisturbed else "DIFFERENT"
    print(f"AT SIZE  {min(sizes)} pairs with and without kills are {result}")


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE  # a zombie has ended, but init has not collected it yet
    return False


if __name__ == "__main__":
    main()

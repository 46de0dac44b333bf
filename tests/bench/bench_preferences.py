"""Compares the build of stage 1 with a plain loop in one process, and measures the cost of Ray Data for each row.

The renderer makes all pairs: the time of the base policy would hide the difference. The full size, with kills:
`python -m tests.bench.preferences_at_size`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from conf import Settings, load
from pipelines.common.paths import run_paths
from pipelines.common.ray_session import ray_session
from pipelines.preferences.build import build_preferences, fingerprint
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.shards import plan_shards, row_specs
from pipelines.preferences.dataset.splits import split_of
from pipelines.preferences.finalize import finalize
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from tests.bench.table import Line, show

SMALL, LARGE = 500, 2000  # pairs
REPEATS = 3


def bench_settings(run_dir: Path, pairs: int) -> Settings:
    """A dataset without pairs of the base policy."""
    return load("scenes", [f"run_dir={run_dir}", f"preferences.pairs={pairs}", "preferences.generated_fraction=0"])


def plain_loop(settings: Settings) -> float:
    """Seconds of a loop over the shards: the same roles and files, without Ray."""
    started = time.perf_counter()
    cfg = settings.preferences
    folder = BuildFolder(run_paths(settings), fingerprint(settings))
    for shard in plan_shards(cfg):
        prompts = ScenePerturber(cfg.single_edit_fraction).perturb(SceneWriter().write(row_specs(shard, cfg)))
        pairs = SceneGenerator().generate(prompts)
        reviews = SceneReviewer().review(pairs)
        kept = [(pair, review) for pair, review in zip(pairs, reviews, strict=True) if review.kept]
        splits = [split_of(pair.prompts.group_id, cfg.test_fraction) for pair, _ in kept]
        table = to_table([pair for pair, _ in kept], [review for _, review in kept], splits, folder.fingerprint)
        folder.write(shard, table.sort_by("pair_id"), len(pairs) - len(kept), [])
    finalize(folder, cfg, {})
    return time.perf_counter() - started


def ray_build(settings: Settings) -> float:
    """Seconds of the build with Ray Data, on the Ray of this process."""
    started = time.perf_counter()
    build_preferences(settings)
    return time.perf_counter() - started


def measured(work: Callable[[Settings], float], folder: Path, pairs: int) -> float:
    """Median seconds of `work` over new run directories."""
    runs = [bench_settings(folder / f"{work.__name__}-{pairs}-{i}", pairs) for i in range(REPEATS)]
    return statistics.median(work(run) for run in runs)


def on_ray(folder: Path, cpus: int, *sizes: int) -> list[float]:
    """Seconds of builds of these sizes on a new Ray, after a warm-up that starts its workers. `cpus`: 0 is all."""
    with ray_session(load("scenes", [f"num_cpus={cpus}"])):
        ray_build(bench_settings(folder / "warm-up", SMALL))
        return [measured(ray_build, folder, size) for size in sizes]


def main() -> None:
    """Runs everything, in about 90 seconds on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = measured(plain_loop, folder, LARGE)
        small, large = on_ray(folder / "one", 1, SMALL, LARGE)
        (all_cores,) = on_ray(folder / "all", 0, LARGE)
    row = (large - small) / (LARGE - SMALL)
    lines = [
        Line(f"{LARGE} pairs by a plain loop", f"{plain:.1f} s  ({1000 * plain / LARGE:.2f} ms a row)"),
        Line("Ray Data, one task at a time", f"{large:.1f} s  ({large / plain:.2f} x)"),
        Line("    fixed part", f"{large - row * LARGE:.1f} s"),
        Line("    each row", f"{1000 * row:.2f} ms  ({1000 * (row - plain / LARGE):+.2f} ms)"),
        Line("Ray Data, all cores", f"{all_cores:.1f} s  ({all_cores / plain:.2f} x)"),
    ]
    show("preferences", lines)


if __name__ == "__main__":
    main()

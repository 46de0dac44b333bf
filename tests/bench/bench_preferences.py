"""Stage 1's job beside a plain loop in one process that does the same work, and what Ray Data costs a row.

The pairs are drawn by the renderer: the base policy's, whose time is the model's, would hide the difference. Full size,
with kills: `python -m tests.bench.preferences_at_size`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from conf import Settings, load
from pipelines.common.ray_session import ray_session
from pipelines.preferences.build import build_preferences, fingerprint
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.shards import Folder, plan_shards, row_specs
from pipelines.preferences.dataset.splits import split_of
from pipelines.preferences.finalize import finish
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from tests.bench.table import Line, show

SMALL, LARGE = 500, 2000  # pairs
REPEATS = 3


def settings_of(run_dir: Path, pairs: int) -> Settings:
    """A set without pairs of the base policy."""
    return load("scenes", [f"run_dir={run_dir}", f"preferences.pairs={pairs}", "preferences.generated_fraction=0"])


def one_process(settings: Settings) -> float:
    """Seconds of a loop over the shards: the same roles, the same files, no Ray."""
    started = time.perf_counter()
    own = settings.preferences
    folder = Folder(Path(settings.run_dir) / "preferences", fingerprint(settings))
    for shard in plan_shards(own):
        drafts = ScenePerturber(own.single_edit_fraction).perturb(SceneWriter().write(row_specs(shard, own)))
        pairs = SceneGenerator().generate(drafts)
        reviews = SceneReviewer().review(pairs)
        kept = [(pair, review) for pair, review in zip(pairs, reviews, strict=True) if review.kept]
        splits = [split_of(pair.draft.group_id, own.test_fraction) for pair, _ in kept]
        table = to_table([pair for pair, _ in kept], [review for _, review in kept], splits, folder.fingerprint)
        folder.write(shard, table.sort_by("pair_id"), len(pairs) - len(kept), [])
    finish(folder, own, {})
    return time.perf_counter() - started


def job(settings: Settings) -> float:
    """Seconds of the Ray Data job on the Ray of this process."""
    started = time.perf_counter()
    build_preferences(settings)
    return time.perf_counter() - started


def measured(work: Callable[[Settings], float], folder: Path, pairs: int) -> float:
    """Median seconds of `work` over fresh run folders."""
    runs = [settings_of(folder / f"{work.__name__}-{pairs}-{i}", pairs) for i in range(REPEATS)]
    return statistics.median(work(run) for run in runs)


def on_ray(folder: Path, cpus: int, *sizes: int) -> list[float]:
    """Seconds of jobs of these sizes on a Ray of its own whose workers have started. `cpus`: 0 is all."""
    with ray_session(load("scenes", [f"num_cpus={cpus}"])):
        job(settings_of(folder / "warm-up", SMALL))
        return [measured(job, folder, size) for size in sizes]


def main() -> None:
    """Runs all of it in about a minute and a half on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = measured(one_process, folder, LARGE)
        small, large = on_ray(folder / "one", 1, SMALL, LARGE)
        (everywhere,) = on_ray(folder / "all", 0, LARGE)
    row = (large - small) / (LARGE - SMALL)
    lines = [
        Line(f"{LARGE} pairs by a loop in one process", f"{plain:.1f} s  ({1000 * plain / LARGE:.2f} ms a row)"),
        Line("by the Ray Data job, one task at a time", f"{large:.1f} s  ({large / plain:.2f} x)"),
        Line("    of it: whatever the number of rows", f"{large - row * LARGE:.1f} s"),
        Line("    of it: a further row", f"{1000 * row:.2f} ms  ({1000 * (row - plain / LARGE):+.2f} ms)"),
        Line("by the Ray Data job, on all cores", f"{everywhere:.1f} s  ({everywhere / plain:.2f} x)"),
    ]
    show("preferences", lines)


if __name__ == "__main__":
    main()

"""Stage 1, the driver: write -> perturb -> paint -> review -> save, as a streaming Ray Data plan.

The renderer's rows and the base policy's rows are two branches that run at once: plain CPU tasks for the one, a pool of
actors that hold FLUX for the other. Nothing but references and one small report a shard passes through the driver.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.flux.plan import SamplingPlan
from actors.process import actor_options, set_up_process
from conf.flux import EMBEDDED
from conf.preferences import PreferencesSettings
from conf.settings import Settings
from pipelines.preferences.roles import Draft, Painted, Painter, Perturber, Review, Reviewer, Task, Writer
from pipelines.preferences.schema import to_table
from pipelines.preferences.shards import Folder, Shard, fingerprint_of, plan_shards, split_of, tasks_of
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.roles import ScenePainter, ScenePerturber, SceneReviewer, SceneWriter

Batch = dict[str, np.ndarray]

TASK_CPUS = 0.8
"""Ray CPUs of a task: beside a few painters there is room for one on each core, and for one where there is one core."""


@dataclass(frozen=True)
class PreferencesResult:
    """Where the pairs are and how many there are."""

    directory: str
    pairs: int
    train: int
    test: int
    seconds: float  # that making them took; of the first time if they were there already
    built: bool  # False: a complete build was found

    def __str__(self) -> str:
        how = f"made in {self.seconds:.0f} s" if self.built else "were there already"
        return f"{self.pairs} pairs {how} ({self.train} to train, {self.test} to test) in {self.directory}"


def build_preferences(settings: Settings) -> PreferencesResult:
    """Makes the preference pairs of a run, on the Ray of this process. A complete build is left as it is.

    Raises ValueError if the run's folder holds a build with other settings, or the policy is of another world than the
    scenes, whose pictures nothing here can paint and review.
    """
    if settings.flux.model != EMBEDDED:
        raise ValueError(
            f"preferences are painted and reviewed in the scenes world, which has flux.model={EMBEDDED}, got "
            f"{settings.flux.model}: put parquet files of pipelines/preferences/schema.py into <run_dir>/preferences"
        )
    started = time.perf_counter()
    own = settings.preferences
    directory = Path(settings.run_dir).absolute() / "preferences"
    folder = Folder(directory, _fingerprint(settings))
    manifest = folder.manifest()
    built = manifest is None
    if manifest is None:
        waiting = [shard for shard in plan_shards(own) if not folder.finished(shard)]
        rows = sum(shard.stop - shard.start for shard in waiting)
        _report_progress(_plan(waiting, settings, folder), own.pairs, rows)
        manifest = folder.close({"settings": asdict(own), "seconds": time.perf_counter() - started})
    splits = manifest["by_split"]
    return PreferencesResult(
        str(directory), manifest["pairs"], splits.get("train", 0), splits.get("test", 0), manifest["seconds"], built
    )


def _plan(shards: Sequence[Shard], settings: Settings, folder: Folder) -> ray.data.Dataset | None:
    """One row a finished shard, saying how many pairs it holds. None if there is nothing to do.

    A block is a shard from end to end: batch_size=None hands a stage one whole block, and no block is ever cut.
    """
    own = settings.preferences
    whole: dict[str, Any] = {"batch_size": None, "num_cpus": TASK_CPUS}
    branches = []
    for generated in (False, True):
        chosen = [{"shard": pickle.dumps(shard)} for shard in shards if shard.generated == generated]
        if not chosen:
            continue
        source: Any = ray.data.from_items(chosen, override_num_blocks=len(chosen))  # Any: Ray types no fn_args
        drafts = (
            source.flat_map(_tasks, fn_args=(own,), num_cpus=TASK_CPUS)
            .map_batches(_write, fn_args=(SceneWriter(),), **whole)
            .map_batches(_perturb, fn_args=(ScenePerturber(own.perturb_one),), **whole)
        )
        if generated:
            painted = drafts.map_batches(
                BasePainter,
                fn_constructor_args=(settings,),
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(size=own.painters),
                **actor_options(own.painter_threads, own.painter_cpus, own.painter_gpus),
            )
        else:
            painted = drafts.map_batches(_paint, fn_args=(ScenePainter(),), **whole)
        branches.append(painted.map_batches(_review, fn_args=(SceneReviewer(),), **whole))
    if not branches:
        return None
    reviewed = branches[0].union(branches[1]) if len(branches) == 2 else branches[0]
    reviewed.context.target_max_block_size = None  # not cut, whatever its pictures weigh
    reviewed.context.enable_progress_bars = False  # _report_progress counts pairs, not blocks
    return reviewed.map_batches(_save, fn_args=(folder, own), **whole)


def _tasks(row: dict[str, Any], settings: PreferencesSettings) -> list[dict[str, Any]]:
    tasks = tasks_of(pickle.loads(row["shard"]), settings)
    return [{"shard": row["shard"], "task": pickle.dumps(task)} for task in tasks]


def _write(batch: Batch, writer: Writer) -> Batch:
    tasks: list[Task] = _records(batch["task"])
    return {"shard": batch["shard"], "draft": _column(writer.write(tasks))}


def _perturb(batch: Batch, perturber: Perturber) -> Batch:
    drafts: list[Draft] = _records(batch["draft"])
    return {"shard": batch["shard"], "draft": _column(perturber.perturb(drafts))}


def _paint(batch: Batch, painter: Painter) -> Batch:
    drafts: list[Draft] = _records(batch["draft"])
    return {"shard": batch["shard"], "pair": _column(painter.paint(drafts))}


class BasePainter:
    """`_paint` by an actor that holds the base FLUX."""

    def __init__(self, settings: Settings) -> None:
        from actors.flux.model import FluxPolicy
        from pipelines.scenes.policy_painter import PolicyPainter

        own = settings.preferences
        device = set_up_process(own.painter_threads, own.painter_gpus)
        policy = FluxPolicy.from_pretrained(str(checkpoints_dir("flux")), settings.flux, device)
        self._painter = PolicyPainter(policy, _sampling_plans(settings), SceneWriter(), own.batch_size)

    def __call__(self, batch: Batch) -> Batch:
        return _paint(batch, self._painter)


def _review(batch: Batch, reviewer: Reviewer) -> Batch:
    pairs: list[Painted] = _records(batch["pair"])
    return batch | {"review": _column(reviewer.review(pairs))}


def _save(batch: Batch, folder: Folder, settings: PreferencesSettings) -> Batch:
    """Writes one whole shard and reports it."""
    shard: Shard = pickle.loads(batch["shard"][0])
    pairs: list[Painted] = _records(batch["pair"])
    reviews: list[Review] = _records(batch["review"])
    indices = [pair.draft.task.index for pair in pairs]
    if sorted(indices) != list(range(shard.start, shard.stop)):
        raise RuntimeError(f"shard {shard.index} must arrive whole, rows {shard.start}-{shard.stop}, got {len(pairs)}")
    accepted = [(pair, review) for pair, review in zip(pairs, reviews, strict=True) if review.accepted]
    splits = [split_of(pair.draft.group_id, settings.test_fraction) for pair, _ in accepted]
    table = to_table([pair for pair, _ in accepted], [review for _, review in accepted], splits, folder.fingerprint)
    folder.write(shard, table.sort_by("pair_id"), rejected=len(pairs) - len(accepted))
    return {"pairs": np.array([len(pairs)])}


def _report_progress(plan: ray.data.Dataset | None, total: int, waiting: int) -> None:
    """Runs the plan and says how many pairs are there, how fast they come and how long the rest will take."""
    started, done = time.perf_counter(), 0
    if waiting < total:
        print(f"preferences  {total - waiting}/{total} pairs were there already", flush=True)
    if plan is None:
        return
    for row in plan.iter_rows():
        done += int(row["pairs"])
        rate = done / (time.perf_counter() - started)
        left = (waiting - done) / rate
        print(f"preferences  {total - waiting + done}/{total} pairs  {rate:.0f} pairs/s  {left:.0f} s left", flush=True)


def _sampling_plans(settings: Settings) -> tuple[SamplingPlan, ...]:
    """As evaluation draws and as training draws: a reward model meets both."""
    training = SamplingPlan.for_training(settings.policy)
    return SamplingPlan.for_evaluation(settings.evaluation), replace(training, trained=(), max_rows=0)


def _fingerprint(settings: Settings) -> str:
    """Of all that decides the rows: not of how many actors make them."""
    own = replace(settings.preferences, painters=1, painter_threads=1, painter_cpus=1.0, painter_gpus=0.0)
    if not own.generated_fraction:
        return fingerprint_of((own,))
    weights = hashlib.blake2b(digest_size=8)
    for path in sorted(checkpoints_dir("flux").rglob("*.safetensors")):
        weights.update(path.read_bytes())
    return fingerprint_of((own, settings.flux, _sampling_plans(settings), weights.hexdigest()))


def _column(records: Sequence[object]) -> np.ndarray:
    """Records as a column of a batch: one pickle a row, which Arrow keeps as binary."""
    column = np.empty(len(records), dtype=object)
    column[:] = [pickle.dumps(record) for record in records]
    return column


def _records(column: np.ndarray) -> list[Any]:
    return [pickle.loads(packed) for packed in column]

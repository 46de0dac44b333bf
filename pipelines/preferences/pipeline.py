"""Stage 1 as a streaming Ray Data plan: write -> perturb -> paint -> encode -> review -> save.

Every painter's rows are a branch of the plan, and all branches run at once: tasks compute, actors hold models, actors
that call a service wait for many answers at a time. The driver sees references and one small report a shard.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from actors.policy.plan import SamplingPlan
from actors.worker_setup import actor_options
from conf.settings import Settings
from pipelines.preferences import ops as stages
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.shards import BASE, Folder, Shard
from pipelines.preferences.dataset.splits import split_of
from pipelines.preferences.roles.base import Dropped, PendingReviewer, Reviewed
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from pipelines.preferences.services import ChatPerturbing, ChatWriting, SeedreamGenerating, ServiceContext

TASK_CPUS = 0.8
"""Ray CPUs of a task: beside a few painters there is room for one on each core, and for one where there is one core."""

WHOLE: dict[str, Any] = {"batch_size": None, "num_cpus": TASK_CPUS}
"""A batch is a block, and a block a shard from end to end: no block is ever cut."""


def plan(shards: Sequence[Shard], settings: Settings, folder: Folder, line: ServiceContext) -> ray.data.Dataset:
    """One row a shard, saying how many of its rows are done and, where some are not, why."""
    painters = sorted({shard.generator for shard in shards})
    branches = [_branch(painter, [s for s in shards if s.generator == painter], settings, line) for painter in painters]
    reviewed: Any = branches[0].union(*branches[1:]) if len(branches) > 1 else branches[0]
    reviewed.context.target_max_block_size = None  # not cut, whatever its pictures weigh
    reviewed.context.enable_progress_bars = False  # _follow counts pairs, not blocks
    return reviewed.map_batches(_save, fn_args=(folder, settings.preferences.test_fraction), **WHOLE)


def _branch(painter: str, shards: Sequence[Shard], settings: Settings, line: ServiceContext) -> ray.data.Dataset:
    """The rows of one painter, up to their review."""
    own = settings.preferences
    chosen = [{"shard": pickle.dumps(shard)} for shard in shards]
    rows: Any = ray.data.from_items(chosen, override_num_blocks=len(chosen))  # Any: Ray types no fn_args
    rows = rows.flat_map(stages.list_row_specs, fn_args=(settings,), num_cpus=TASK_CPUS)
    if own.writer == "chat":
        rows = line.map(rows, ChatWriting, settings.writer)
    else:
        rows = rows.map_batches(stages.write, fn_args=(SceneWriter(),), **WHOLE)
    if own.perturber == "chat":
        rows = line.map(rows, ChatPerturbing, settings.perturber)
    else:
        rows = rows.map_batches(stages.perturb, fn_args=(ScenePerturber(own.single_edit_fraction),), **WHOLE)
    rows = _generated(rows, painter, settings, line).map_batches(stages.encode, **WHOLE)
    reviewer = SceneReviewer() if own.reviewer == "scenes" else PendingReviewer()
    return rows.map_batches(stages.review, fn_args=(reviewer,), **WHOLE)


def _generated(rows: Any, painter: str, settings: Settings, line: ServiceContext) -> Any:
    own = settings.preferences
    if painter == "renderer":
        return rows.map_batches(stages.generate, fn_args=(SceneGenerator(),), **WHOLE)
    if painter == "seedream":
        return line.map(rows, SeedreamGenerating, settings.seedream)
    if painter == BASE:
        return rows.map_batches(
            stages.BaseGenerator,
            fn_constructor_args=(settings, sampling_plans(settings)),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=own.generator_actors),
            **actor_options(own.generator_threads, own.generator_cpus, own.generator_gpus),
        )
    pool = getattr(settings, painter)
    return rows.map_batches(
        stages.DiffusersStage,
        fn_constructor_args=(painter, settings),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=pool.actors),
        **actor_options(pool.threads, pool.cpus, pool.gpus),
    )


def _save(batch: stages.Batch, folder: Folder, test_fraction: float) -> stages.Batch:
    """Writes one whole shard and reports it. A shard with rows that may yet succeed is left to the next start."""
    shard: Shard = pickle.loads(batch["shard"][0])
    records: list[Reviewed | Dropped] = stages.records_of(batch)
    reviewed = [record for record in records if isinstance(record, Reviewed)]
    dropped = [record for record in records if isinstance(record, Dropped)]
    indices = [record.task.index for record in dropped] + [record.pair.draft.task.index for record in reviewed]
    if sorted(indices) != list(range(shard.start, shard.stop)):
        raise RuntimeError(
            f"shard {shard.index} must arrive whole, rows {shard.start}-{shard.stop}, got {len(records)}"
        )
    unfinished = [record for record in dropped if not record.final]
    if unfinished:
        return _report(0, unfinished[0].reason, unfinished[0].message)
    kept = [record for record in reviewed if record.review.kept]
    pairs, reviews = [record.pair for record in kept], [record.review for record in kept]
    splits = [split_of(pair.draft.group_id, test_fraction) for pair in pairs]
    table = to_table(pairs, reviews, splits, folder.fingerprint)
    folder.write(shard, table.sort_by("pair_id"), len(reviewed) - len(kept), dropped)
    return _report(len(records), "", "")


def _report(rows: int, reason: str, message: str) -> stages.Batch:
    return {"rows": np.array([rows]), "reason": np.array([reason]), "message": np.array([message])}


def sampling_plans(settings: Settings) -> tuple[SamplingPlan, ...]:
    """In training's steps, without its noise and with it: a reward model meets both."""
    training = replace(SamplingPlan.for_training(settings.policy), trained=(), max_batch=0, images_per_noise=1)
    return SamplingPlan(settings.policy.sampling.denoise_steps), training

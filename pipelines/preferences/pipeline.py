"""The operations of stage 1 on a Ray Data dataset: one function for each verb of the driver in build.py.

The rows of each generator are one branch of the plan, and all branches run at the same time. Tasks compute, actors
hold models, and actors that call a service wait for many answers at once. A block holds one whole shard from start to
end, with a column `record`. The driver receives one small report for each shard.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray

from actors.policy.plan import SamplingPlan
from actors.worker_setup import actor_options
from conf.generators import DiffusersSettings
from conf.settings import Settings
from pipelines.preferences import ops
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.shards import GeneratorName, Shard
from pipelines.preferences.dataset.stored_images import ImageStorage
from pipelines.preferences.roles.base import PendingReviewer
from pipelines.preferences.roles.scenes import ScenePerturber, SceneReviewer, SceneWriter
from pipelines.preferences.services import (
    ChatPerturberActor,
    ChatWriterActor,
    DiffusersActor,
    SeedreamActor,
    ServiceContext,
)

TASK_CPUS = 0.8
"""Ray CPUs of a task. Beside a few generator actors this leaves one task for each core, even with a single core."""


def list_rows(shards: Sequence[Shard], settings: Settings) -> ray.data.Dataset:
    """Lists the rows of the shards as RowSpec records, one block for each shard."""
    packed = [{"shard": pickle.dumps(shard)} for shard in shards]
    rows: Any = ray.data.from_items(packed, override_num_blocks=len(packed))  # Any: flat_map has no typed fn_args
    return rows.flat_map(ops.list_row_specs, fn_args=(settings,), num_cpus=TASK_CPUS)


def write(rows: ray.data.Dataset, settings: Settings, services: ServiceContext) -> ray.data.Dataset:
    """Writes a prompt for each row."""
    if settings.preferences.writer == "chat":
        return services.map(rows, ChatWriterActor, settings.writer)
    return _map_tasks(rows, ops.write_batch, SceneWriter())


def perturb(rows: ray.data.Dataset, settings: Settings, services: ServiceContext) -> ray.data.Dataset:
    """Adds a prompt that contradicts the first one."""
    if settings.preferences.perturber == "chat":
        return services.map(rows, ChatPerturberActor, settings.perturber)
    perturber = ScenePerturber(settings.preferences.single_edit_fraction)
    return _map_tasks(rows, ops.perturb_batch, perturber)


def generate(
    rows: ray.data.Dataset, generator: GeneratorName, settings: Settings, services: ServiceContext
) -> ray.data.Dataset:
    """Generates both images of each row with one generator."""
    cfg = settings.preferences
    match generator:
        case "renderer":
            return _map_tasks(rows, ops.render_batch, services.counter)
        case "seedream":
            return services.map(rows, SeedreamActor, settings.seedream)
        case "base":
            return _map_actors(
                rows,
                ops.BasePolicyActor,
                (settings, sampling_plans(settings), services.counter),
                cfg.generator_actors,
                actor_options(cfg.generator_threads, cfg.generator_cpus, cfg.generator_gpus),
            )
        case "qwen_image" | "hunyuan_image":
            pool: DiffusersSettings = settings.qwen_image if generator == "qwen_image" else settings.hunyuan_image
            options = actor_options(pool.threads, pool.cpus, pool.gpus)
            most = max(pool.actors, pool.max_actors)
            return _map_actors(rows, DiffusersActor, (services, generator), pool.actors, options, most)


def encode(rows: ray.data.Dataset, settings: Settings) -> ray.data.Dataset:
    """Encodes the images and computes their perceptual hashes, away from the generators."""
    return _map_tasks(rows, ops.encode_batch, ImageStorage.of(settings.preferences))


def review(rows: ray.data.Dataset, settings: Settings, services: ServiceContext) -> ray.data.Dataset:
    """Accepts or rejects each pair by the exact checker, or leaves it pending for annotators."""
    reviewer = SceneReviewer() if settings.preferences.reviewer == "scenes" else PendingReviewer()
    return _map_tasks(rows, ops.review_batch, reviewer, services.counter)


def save(
    branches: Sequence[ray.data.Dataset], folder: BuildFolder, settings: Settings, services: ServiceContext
) -> ray.data.Dataset:
    """Writes every shard as parquet. The result has one row for each shard: rows done, and a reason if none are."""
    rows = branches[0].union(*branches[1:]) if len(branches) > 1 else branches[0]
    rows.context.target_max_block_size = None  # a shard stays one block, however large its images are
    rows.context.enable_progress_bars = False  # the driver logs pairs, not blocks
    return _map_tasks(rows, ops.save_batch, folder, settings.preferences.test_fraction, services.images)


def sampling_plans(settings: Settings) -> tuple[SamplingPlan, SamplingPlan]:
    """The denoise steps of training, without and with its noise: the reward model scores both kinds of images."""
    training = replace(SamplingPlan.for_training(settings.policy), train_steps=(), max_batch=0, images_per_noise=1)
    return SamplingPlan(settings.policy.sampling.denoise_steps), training


def _map_tasks(rows: ray.data.Dataset, function: Callable[..., ops.Batch], *arguments: object) -> ray.data.Dataset:
    """Maps whole shards in tasks. A batch is a block, and a block is a shard: blocks are never split."""
    untyped: Any = rows  # Ray's types do not cover functions with further arguments
    return untyped.map_batches(function, fn_args=arguments, batch_size=None, num_cpus=TASK_CPUS)


def _map_actors(
    rows: ray.data.Dataset,
    actor: type,
    arguments: tuple[object, ...],
    count: int,
    options: dict[str, Any],
    most: int | None = None,
) -> ray.data.Dataset:
    """Maps whole shards on `count` actors, constructed with `arguments`; on up to `most` where there is room."""
    return rows.map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=count, max_size=most or count),
        **options,
    )

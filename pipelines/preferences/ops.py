"""The roles as functions of a Ray Data batch. A batch is one whole shard: column `record`, one pickled record a row.

Roles that compute are functions. Roles that hold a model are actors, and only they import its library, because every
worker of the plan imports this module. Roles that call a service are in `services`.
"""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from actors.files import join
from actors.policy.plan import SamplingPlan
from actors.worker_setup import init_worker
from conf.settings import Settings
from pipelines.common.worker_log import WorkCounter
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.shards import Shard, row_specs
from pipelines.preferences.dataset.splits import split_of
from pipelines.preferences.dataset.stored_images import ImageStorage
from pipelines.preferences.roles.base import (
    Dropped,
    Generator,
    ImagePair,
    Perturber,
    RawPair,
    ReviewedPair,
    Reviewer,
    RowSpec,
    Writer,
)
from pipelines.preferences.roles.image_cache import clear_image_cache
from pipelines.preferences.roles.scenes import SceneGenerator, SceneWriter
from pipelines.scenes import checkpoints_dir

Batch = dict[str, np.ndarray]

REVIEWED = "reviewed"
"""Name of the count of reviewed rows. The counts of generated rows have the names of their generators."""


def list_row_specs(row: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """Turns a shard into its rows: RowSpec records."""
    specs = row_specs(pickle.loads(row["shard"]), settings.preferences)
    return [{**row, "record": pickle.dumps(spec)} for spec in specs]


def write_batch(batch: Batch, writer: Writer) -> Batch:
    """RowSpec -> PromptPair."""
    specs: list[RowSpec] = records_of(batch)
    return with_records(batch, writer.write(specs))


def perturb_batch(batch: Batch, perturber: Perturber) -> Batch:
    """PromptPair -> PromptPair with a perturbed prompt."""
    return with_records(batch, map_live(records_of(batch), perturber.perturb))


def generate_batch(batch: Batch, generator: Generator) -> Batch:
    """PromptPair -> ImagePair or RawPair."""
    return with_records(batch, map_live(records_of(batch), generator.generate))


def render_batch(batch: Batch, counter: WorkCounter) -> Batch:
    """PromptPair -> ImagePair, by the renderer."""
    generated = generate_batch(batch, SceneGenerator())
    counter.add("renderer", len(batch["record"]))
    return generated


def encode_batch(batch: Batch, storage: ImageStorage) -> Batch:
    """RawPair -> ImagePair. Generators of small images have encoded theirs already."""

    def encode(pairs: Sequence[RawPair | ImagePair]) -> list[ImagePair]:
        return [storage.store(pair) for pair in pairs]

    return with_records(batch, map_live(records_of(batch), encode))


def review_batch(batch: Batch, reviewer: Reviewer, counter: WorkCounter) -> Batch:
    """ImagePair -> ReviewedPair."""

    def review(pairs: Sequence[ImagePair]) -> list[ReviewedPair]:
        return [ReviewedPair(pair, one) for pair, one in zip(pairs, reviewer.review(pairs), strict=True)]

    reviewed = with_records(batch, map_live(records_of(batch), review))
    counter.add(REVIEWED, len(batch["record"]))
    return reviewed


MAX_STARTS = 3
"""Starts of a build after which a row that never had an answer is dropped for good."""


def save_batch(batch: Batch, folder: BuildFolder, test_fraction: float, images: str) -> Batch:
    """Writes one whole shard and returns its report. `images`: where the images of the shards are cached.

    If another start may still succeed for some of its rows, the shard is not written: the next start makes it again.
    """
    shard = shard_of(batch)
    records: list[ReviewedPair | Dropped] = records_of(batch)
    reviewed = [record for record in records if isinstance(record, ReviewedPair)]
    dropped = [record for record in records if isinstance(record, Dropped)]
    indices = [record.spec.index for record in dropped] + [record.pair.prompts.spec.index for record in reviewed]
    if sorted(indices) != list(range(shard.start, shard.stop)):
        raise RuntimeError(
            f"shard {shard.index} must hold exactly the rows {shard.start} to {shard.stop - 1}, got {len(records)} rows"
        )
    unfinished = [record for record in dropped if not record.final]
    if unfinished:
        starts = folder.count_starts(shard, [record.spec.index for record in unfinished])
        waits = [record for record in unfinished if record.reason == "budget"] or unfinished[: starts < MAX_STARTS]
        if waits:
            return _report(0, waits[0].reason, waits[0].message)
    kept = [record for record in reviewed if record.review.kept]
    splits = [split_of(record.pair.prompts.group_id, test_fraction) for record in kept]
    table = to_table([one.pair for one in kept], [one.review for one in kept], splits, folder.fingerprint)
    folder.write(shard, table.sort_by("pair_id"), len(reviewed) - len(kept), dropped)
    clear_image_cache(shard_images(images, shard))
    return _report(len(records), "", "")


class BasePolicyActor:
    """PromptPair -> ImagePair, by an actor that holds the base FLUX."""

    def __init__(self, settings: Settings, plans: Sequence[SamplingPlan], counter: WorkCounter) -> None:
        from actors.policy.flux import FluxPolicy
        from pipelines.preferences.roles.policy_generator import PolicyGenerator

        cfg = settings.preferences
        device = init_worker(cfg.generator_threads, cfg.generator_gpus)
        policy = FluxPolicy.from_pretrained(str(checkpoints_dir("flux")), settings.flux, device)
        self._generator = PolicyGenerator(policy, plans, SceneWriter(), cfg.batch_size, partial(counter.add, "base"))

    def __call__(self, batch: Batch) -> Batch:
        """Generates the images of one shard."""
        return generate_batch(batch, self._generator)


def shard_images(images: str, shard: Shard) -> str:
    """Where the images of a shard are kept until it is saved."""
    return join(images, f"{shard.index:05d}")


def shard_of(batch: Batch) -> Shard:
    """The shard of a batch."""
    return pickle.loads(batch["shard"][0])


def records_of(batch: Batch) -> list[Any]:
    """The records of a shard, one for each row."""
    return [pickle.loads(packed) for packed in batch["record"]]


def with_records(batch: Batch, records: Sequence[object]) -> Batch:
    """The shard with other records, one for each row."""
    column = np.empty(len(records), dtype=object)
    column[:] = [pickle.dumps(record) for record in records]
    return {"shard": batch["shard"], "record": column}


def map_live(records: list[Any], role: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """Applies a role to the rows that are not dropped. Dropped rows stay as they are, and the order is kept."""
    results = iter(role([record for record in records if not isinstance(record, Dropped)]))
    return [record if isinstance(record, Dropped) else next(results) for record in records]


async def map_live_async(records: list[Any], role: Callable[[list[Any]], Awaitable[Sequence[Any]]]) -> list[Any]:
    """`map_live` for a role that awaits its results."""
    results = iter(await role([record for record in records if not isinstance(record, Dropped)]))
    return [record if isinstance(record, Dropped) else next(results) for record in records]


def _report(rows: int, reason: str, message: str) -> Batch:
    return {"rows": np.array([rows]), "reason": np.array([reason]), "message": np.array([message])}

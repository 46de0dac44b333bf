"""The roles as stages of a Ray Data plan. A batch is one whole shard: a column `record`, one pickled record a row.

Roles that compute are functions, and those that hold a model are actors, which alone import its library: every worker
of the plan imports this module. Those that call a service are in `services`.
"""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from actors.policy.plan import SamplingPlan
from actors.worker_setup import init_worker
from conf.settings import Settings
from pipelines.preferences.dataset.shards import row_specs
from pipelines.preferences.roles.base import (
    Dropped,
    Generator,
    ImagePair,
    Perturber,
    RawPair,
    Reviewed,
    Reviewer,
    RowSpec,
    Writer,
)
from pipelines.preferences.roles.scenes import SceneWriter
from pipelines.scenes import checkpoints_dir

Batch = dict[str, np.ndarray]


def list_row_specs(row: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """A shard -> its rows."""
    return [
        {**row, "record": pickle.dumps(task)} for task in row_specs(pickle.loads(row["shard"]), settings.preferences)
    ]


def write(batch: Batch, writer: Writer) -> Batch:
    """Task -> Draft."""
    tasks: list[RowSpec] = records_of(batch)
    return with_records(batch, writer.write(tasks))


def perturb(batch: Batch, perturber: Perturber) -> Batch:
    """Draft -> Draft."""
    return with_records(batch, map_live(records_of(batch), perturber.perturb))


def generate(batch: Batch, painter: Generator) -> Batch:
    """Draft -> Painted."""
    return with_records(batch, map_live(records_of(batch), painter.generate))


def encode(batch: Batch) -> Batch:
    """Drawn -> Painted; painters of small pictures have encoded theirs already."""
    return with_records(batch, map_live(records_of(batch), _encoded))


def _encoded(pairs: Sequence[RawPair | ImagePair]) -> list[ImagePair]:
    return [pair.encoded() if isinstance(pair, RawPair) else pair for pair in pairs]


def review(batch: Batch, reviewer: Reviewer) -> Batch:
    """Painted -> Reviewed."""

    def reviewed(pairs: Sequence[Any]) -> list[Reviewed]:
        return [Reviewed(*parts) for parts in zip(pairs, reviewer.review(pairs), strict=True)]

    return with_records(batch, map_live(records_of(batch), reviewed))


class BaseGenerator:
    """Draft -> Painted, by an actor that holds the base FLUX."""

    def __init__(self, settings: Settings, plans: Sequence[SamplingPlan]) -> None:
        from actors.policy.flux import FluxPolicy
        from pipelines.preferences.roles.policy_generator import PolicyGenerator

        own = settings.preferences
        device = init_worker(own.generator_threads, own.generator_gpus)
        policy = FluxPolicy.from_pretrained(str(checkpoints_dir("flux")), settings.flux, device)
        self._painter = PolicyGenerator(policy, plans, SceneWriter(), own.batch_size)

    def __call__(self, batch: Batch) -> Batch:
        return generate(batch, self._painter)


class DiffusersStage:
    """Draft -> Drawn, by an actor that holds a diffusers pipeline."""

    def __init__(self, generator: str, settings: Settings) -> None:
        from pipelines.preferences.roles.generators import DiffusersGenerator

        own = getattr(settings, generator)
        self._painter = DiffusersGenerator(generator, own, init_worker(own.threads, own.gpus))

    def __call__(self, batch: Batch) -> Batch:
        return with_records(batch, map_live(records_of(batch), self._painter.generate))


def records_of(batch: Batch) -> list[Any]:
    """The records of a shard's rows."""
    return [pickle.loads(packed) for packed in batch["record"]]


def with_records(batch: Batch, records: Sequence[object]) -> Batch:
    """The shard with these records instead."""
    column = np.empty(len(records), dtype=object)
    column[:] = [pickle.dumps(record) for record in records]
    return {"shard": batch["shard"], "record": column}


def map_live(records: list[Any], role: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """What the role makes of the rows that are not dropped, the others as they are."""
    done = iter(role([record for record in records if not isinstance(record, Dropped)]))
    return [record if isinstance(record, Dropped) else next(done) for record in records]


async def map_live_async(records: list[Any], role: Callable[[list[Any]], Awaitable[Sequence[Any]]]) -> list[Any]:
    """`alive` for a role that waits."""
    done = iter(await role([record for record in records if not isinstance(record, Dropped)]))
    return [record if isinstance(record, Dropped) else next(done) for record in records]

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
from actors.worker_setup import set_up_process
from conf.settings import Settings
from pipelines.preferences.dataset.shards import tasks_of
from pipelines.preferences.roles.base import (
    Drawn,
    Dropped,
    Painted,
    Painter,
    Perturber,
    Reviewed,
    Reviewer,
    Task,
    Writer,
)
from pipelines.preferences.roles.scenes import SceneWriter
from pipelines.scenes import checkpoints_dir

Batch = dict[str, np.ndarray]


def list_tasks(row: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """A shard -> its rows."""
    return [
        {**row, "record": pickle.dumps(task)} for task in tasks_of(pickle.loads(row["shard"]), settings.preferences)
    ]


def write(batch: Batch, writer: Writer) -> Batch:
    """Task -> Draft."""
    tasks: list[Task] = records_of(batch)
    return with_records(batch, writer.write(tasks))


def perturb(batch: Batch, perturber: Perturber) -> Batch:
    """Draft -> Draft."""
    return with_records(batch, alive(records_of(batch), perturber.perturb))


def paint(batch: Batch, painter: Painter) -> Batch:
    """Draft -> Painted."""
    return with_records(batch, alive(records_of(batch), painter.paint))


def encode(batch: Batch) -> Batch:
    """Drawn -> Painted; painters of small pictures have encoded theirs already."""
    return with_records(batch, alive(records_of(batch), _encoded))


def _encoded(pairs: Sequence[Drawn | Painted]) -> list[Painted]:
    return [pair.encoded() if isinstance(pair, Drawn) else pair for pair in pairs]


def review(batch: Batch, reviewer: Reviewer) -> Batch:
    """Painted -> Reviewed."""

    def reviewed(pairs: Sequence[Any]) -> list[Reviewed]:
        return [Reviewed(*parts) for parts in zip(pairs, reviewer.review(pairs), strict=True)]

    return with_records(batch, alive(records_of(batch), reviewed))


class BasePainter:
    """Draft -> Painted, by an actor that holds the base FLUX."""

    def __init__(self, settings: Settings, plans: Sequence[SamplingPlan]) -> None:
        from actors.policy.flux import FluxPolicy
        from pipelines.preferences.roles.policy_generator import PolicyPainter

        own = settings.preferences
        device = set_up_process(own.painter_threads, own.painter_gpus)
        policy = FluxPolicy.from_pretrained(str(checkpoints_dir("flux")), settings.flux, device)
        self._painter = PolicyPainter(policy, plans, SceneWriter(), own.batch_size)

    def __call__(self, batch: Batch) -> Batch:
        return paint(batch, self._painter)


class DiffusersStage:
    """Draft -> Drawn, by an actor that holds a diffusers pipeline."""

    def __init__(self, generator: str, settings: Settings) -> None:
        from pipelines.preferences.roles.generators import DiffusersPainter

        own = getattr(settings, generator)
        self._painter = DiffusersPainter(generator, own, set_up_process(own.threads, own.gpus))

    def __call__(self, batch: Batch) -> Batch:
        return with_records(batch, alive(records_of(batch), self._painter.draw))


def records_of(batch: Batch) -> list[Any]:
    """The records of a shard's rows."""
    return [pickle.loads(packed) for packed in batch["record"]]


def with_records(batch: Batch, records: Sequence[object]) -> Batch:
    """The shard with these records instead."""
    column = np.empty(len(records), dtype=object)
    column[:] = [pickle.dumps(record) for record in records]
    return {"shard": batch["shard"], "record": column}


def alive(records: list[Any], role: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """What the role makes of the rows that are not dropped, the others as they are."""
    done = iter(role([record for record in records if not isinstance(record, Dropped)]))
    return [record if isinstance(record, Dropped) else next(done) for record in records]


async def alive_async(records: list[Any], role: Callable[[list[Any]], Awaitable[Sequence[Any]]]) -> list[Any]:
    """`alive` for a role that waits."""
    done = iter(await role([record for record in records if not isinstance(record, Dropped)]))
    return [record if isinstance(record, Dropped) else next(done) for record in records]

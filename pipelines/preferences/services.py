"""The roles that call a service, as actors of a Ray Data plan whose shards wait for their answers side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from actors.services.budget import BudgetTracker, Usage
from actors.services.endpoint import Endpoint, Key, key_of
from actors.worker_setup import actor_options
from conf.endpoints import EndpointSettings
from conf.settings import Settings
from pipelines.preferences.ops import Batch, map_live_async, records_of, with_records
from pipelines.preferences.roles.chat import ChatPerturber, ChatWriter
from pipelines.preferences.roles.seedream import SeedreamGenerator

E = TypeVar("E", bound=EndpointSettings)

API_CPUS = 0.05
"""Ray CPUs of an actor that waits for answers."""


class RemoteBudget:
    """A Meter that is an actor."""

    def __init__(self, meter: Any) -> None:  # Any: a handle of a Meter, whose methods Ray does not type
        self.meter = meter

    async def acquire(self, caller: str, calls_per_minute: int) -> float:
        """See Meter.admit."""
        try:
            return await self.meter.admit.remote(caller, calls_per_minute)
        except RayTaskError as error:
            raise error.cause from None

    async def record(self, spent: Usage) -> None:
        """See Meter.record."""
        await self.meter.record.remote(spent)

    def usage(self) -> Usage:
        """What all calls cost so far."""
        return ray.get(self.meter.spent.remote())


@dataclass(frozen=True)
class ServiceContext:
    """What an actor needs to call a service: the account that all share, and where answers are kept."""

    settings: Settings
    account: RemoteBudget
    branches: int  # of the plan, each with actors of its own, that share the services' places

    @classmethod
    def open(cls, settings: Settings, branches: int) -> ServiceContext:
        """Starts the account's actor."""
        meter: Any = ray.remote(BudgetTracker).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        account = f"{settings.run_dir}/account.jsonl"
        return cls(settings, RemoteBudget(meter.remote(settings.budget, account)), branches)

    def share(self, endpoint: E) -> E:
        """One branch's share of the calls that may be under way."""
        return replace(endpoint, concurrency=max(1, endpoint.concurrency // self.branches))

    def map(self, rows: Any, stage: type, endpoint: EndpointSettings) -> Any:
        """Rows (a Dataset) after a stage of this module. Raises ValueError if the service's key is not set."""
        places = self.share(endpoint).concurrency
        shards = math.ceil(places / self.settings.preferences.shard_rows) + 1  # at once, so that no place stays free
        return rows.map_batches(
            stage,
            fn_constructor_args=(self, key_of(endpoint)),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                size=1, max_tasks_in_flight_per_actor=shards, max_concurrent_calls_per_actor=shards
            ),
            **actor_options(1, API_CPUS, 0),
        )

    def endpoint(self, endpoint: EndpointSettings, key: Key) -> Endpoint:
        """The service, for one actor."""
        cache = self.settings.budget.cache or f"{self.settings.run_dir}/answers"
        return Endpoint(self.share(endpoint), key, self.account, cache)


class ChatWriting:
    """Task -> Draft, by a service."""

    def __init__(self, line: ServiceContext, key: Key) -> None:
        own = line.settings.writer
        self._writer = ChatWriter(line.endpoint(own, key), own)

    async def __call__(self, batch: Batch) -> Batch:
        return with_records(batch, await map_live_async(records_of(batch), self._writer.write))


class ChatPerturbing:
    """Draft -> Draft, by a service."""

    def __init__(self, line: ServiceContext, key: Key) -> None:
        own = line.settings.perturber
        self._perturber = ChatPerturber(line.endpoint(own, key), own, line.settings.preferences.single_edit_fraction)

    async def __call__(self, batch: Batch) -> Batch:
        return with_records(batch, await map_live_async(records_of(batch), self._perturber.perturb))


class SeedreamGenerating:
    """Draft -> Drawn, by a service."""

    def __init__(self, line: ServiceContext, key: Key) -> None:
        own = line.settings.seedream
        self._painter = SeedreamGenerator(line.endpoint(own, key), own)

    async def __call__(self, batch: Batch) -> Batch:
        return with_records(batch, await map_live_async(records_of(batch), self._painter.generate))

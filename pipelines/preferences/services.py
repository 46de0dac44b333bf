"""The roles that call a service, as actors of a Ray Data plan. Several shards wait for their answers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from actors.services.budget import BudgetTracker, Usage
from actors.services.endpoint import Endpoint
from actors.services.keys import Key, key_of
from actors.worker_setup import actor_options
from conf.endpoints import EndpointSettings
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.common.worker_log import WorkCounter
from pipelines.preferences.ops import Batch, map_live_async, records_of, with_records
from pipelines.preferences.roles.chat import ChatPerturber, ChatWriter
from pipelines.preferences.roles.seedream import SeedreamGenerator

E = TypeVar("E", bound=EndpointSettings)

SERVICE_CPUS = 0.05
"""Ray CPUs of an actor that waits for answers."""


class RemoteBudget:
    """A BudgetTracker that is a Ray actor."""

    def __init__(self, tracker: Any) -> None:  # Any: a handle of a BudgetTracker, whose methods Ray does not type
        self.tracker = tracker

    async def acquire(self, caller: str, calls_per_minute: int) -> float:
        """See BudgetTracker.acquire."""
        try:
            return await self.tracker.acquire.remote(caller, calls_per_minute)
        except RayTaskError as error:
            raise error.cause from None

    async def record(self, usage: Usage) -> None:
        """See BudgetTracker.record."""
        await self.tracker.record.remote(usage)

    def usage(self) -> Usage:
        """The usage of all calls so far."""
        return ray.get(self.tracker.usage.remote())


@dataclass(frozen=True)
class ServiceContext:
    """What actors share: the settings, the budget and cached answers of services, and the counts of their work."""

    settings: Settings
    budget: RemoteBudget
    branches: int  # of the plan; each has its own actors, and they share the concurrency of a service
    counter: WorkCounter

    @classmethod
    def open(cls, settings: Settings, branches: int) -> ServiceContext:
        """Starts the actors that track the budget and count the work."""
        tracker: Any = ray.remote(BudgetTracker).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        budget = RemoteBudget(tracker.remote(settings.budget, str(run_paths(settings).account)))
        return cls(settings, budget, branches, WorkCounter.start())

    def share(self, endpoint: E) -> E:
        """The settings of a service with one branch's share of its concurrency."""
        return replace(endpoint, concurrency=max(1, endpoint.concurrency // self.branches))

    def map(self, rows: ray.data.Dataset, actor: type, endpoint: EndpointSettings) -> ray.data.Dataset:
        """Maps whole shards on an actor of this module. Raises SettingsError if the key of the service is not set."""
        concurrency = self.share(endpoint).concurrency
        # One shard more than the concurrency needs, so that no slot is idle while a shard ends.
        shards = math.ceil(concurrency / self.settings.preferences.shard_rows) + 1
        return rows.map_batches(
            actor,
            fn_constructor_args=(self, key_of(endpoint)),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                size=1, max_tasks_in_flight_per_actor=shards, max_concurrent_calls_per_actor=shards
            ),
            **actor_options(1, SERVICE_CPUS, 0),
        )

    def endpoint(self, endpoint: EndpointSettings, key: Key) -> Endpoint:
        """The client of a service, for one actor."""
        cache = self.settings.budget.cache or str(run_paths(self.settings).answers)
        return Endpoint(self.share(endpoint), key, self.budget, cache)


class ChatWriterActor:
    """RowSpec -> PromptPair, by a chat model."""

    def __init__(self, services: ServiceContext, key: Key) -> None:
        settings = services.settings.writer
        self._writer = ChatWriter(services.endpoint(settings, key), settings)

    async def __call__(self, batch: Batch) -> Batch:
        """Writes the prompts of one shard."""
        return with_records(batch, await map_live_async(records_of(batch), self._writer.write))


class ChatPerturberActor:
    """PromptPair -> PromptPair with a perturbed prompt, by a chat model."""

    def __init__(self, services: ServiceContext, key: Key) -> None:
        settings, single = services.settings.perturber, services.settings.preferences.single_edit_fraction
        self._perturber = ChatPerturber(services.endpoint(settings, key), settings, single)

    async def __call__(self, batch: Batch) -> Batch:
        """Perturbs the prompts of one shard."""
        return with_records(batch, await map_live_async(records_of(batch), self._perturber.perturb))


class SeedreamActor:
    """PromptPair -> RawPair, by an images API."""

    def __init__(self, services: ServiceContext, key: Key) -> None:
        settings = services.settings.seedream
        self._generator, self._counter = SeedreamGenerator(services.endpoint(settings, key), settings), services.counter

    async def __call__(self, batch: Batch) -> Batch:
        """Generates the images of one shard."""
        generated = with_records(batch, await map_live_async(records_of(batch), self._generator.generate))
        self._counter.add("seedream", len(batch["record"]))
        return generated

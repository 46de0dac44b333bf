"""The roles that call a service, as actors of a Ray Data plan. Several shards wait for their answers at once."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import ray
from ray.exceptions import RayTaskError

from actors.files import join
from actors.services.budget import BudgetTracker, Usage
from actors.services.endpoint import Endpoint
from actors.services.keys import Key, key_of
from actors.worker_setup import actor_options, init_worker
from conf.endpoints import EndpointSettings
from conf.generators import QwenImageSettings
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.common.worker_log import WorkCounter
from pipelines.preferences.ops import Batch, map_live_async, records_of, shard_images, shard_of, with_records
from pipelines.preferences.roles.base import PromptPair
from pipelines.preferences.roles.chat import ChatPerturber, ChatWriter
from pipelines.preferences.roles.checked_images import CheckRules, Draw, PairMaker
from pipelines.preferences.roles.claim_judge import ClaimJudge
from pipelines.preferences.roles.image_cache import ImageCache
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
    judge_key: Key | None  # of section claim_judge; None if no model checks images

    @classmethod
    def open(cls, settings: Settings, branches: int) -> ServiceContext:
        """Starts the actors that track the budget and count the work. Raises UserError without the judge's key."""
        tracker: Any = ray.remote(BudgetTracker).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        budget = RemoteBudget(tracker.remote(settings.budget, str(run_paths(settings).account)))
        judge_key = key_of(settings.claim_judge) if settings.preferences.image_check == "judge" else None
        return cls(settings, budget, branches, WorkCounter.start(), judge_key)

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

    @property
    def cache(self) -> str:
        """Folder or URI of answers and images that are not asked for again."""
        return self.settings.budget.cache or str(run_paths(self.settings).answers)

    @property
    def images(self) -> str:
        """Where images of generators are kept until their shard is saved."""
        return join(self.cache, "images")

    def endpoint(self, endpoint: EndpointSettings, key: Key) -> Endpoint:
        """The client of a service, for one actor."""
        return Endpoint(self.share(endpoint), key, self.budget, self.cache)

    def judge(self) -> ClaimJudge | None:
        """Who checks images before people see them; None if nobody does. Call it in the event loop that uses it."""
        judge = self.settings.claim_judge
        return ClaimJudge(self.endpoint(judge, self.judge_key), judge.attempts) if self.judge_key else None

    def pair_maker(self, draw: Draw, judge: ClaimJudge | None, generator: str, edit_losers: bool = False) -> PairMaker:
        """Makes pairs from the images of one generator, see CheckRules."""
        cfg = self.settings.preferences
        rules = CheckRules(cfg.tries, cfg.audit_fraction, edit_losers)
        return PairMaker(draw, judge, rules, partial(self.counter.add, generator))


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
        generator = SeedreamGenerator(services.endpoint(settings, key), settings)
        self._maker = services.pair_maker(generator.draw, services.judge(), "seedream", settings.edit_losers)

    async def __call__(self, batch: Batch) -> Batch:
        """Generates the images of one shard."""
        return with_records(batch, await map_live_async(records_of(batch), self._maker.generate))


class DiffusersActor:
    """PromptPair -> RawPair, by an actor that holds a diffusers pipeline."""

    def __init__(self, services: ServiceContext, generator: Literal["qwen_image", "hunyuan_image"]) -> None:
        from pipelines.preferences.roles.generators import DiffusersGenerator

        settings = services.settings
        cfg = settings.qwen_image if generator == "qwen_image" else settings.hunyuan_image
        self._services, self._name, self._batch, self._identity = services, generator, cfg.batch, asdict(cfg.identity())
        device = init_worker(cfg.threads, cfg.gpus)
        self._generator = DiffusersGenerator(generator, cfg, device)
        self._draw, self._edits = self._generator.draw, False
        if isinstance(cfg, QwenImageSettings) and cfg.edit_losers:
            from pipelines.preferences.roles.image_editor import EditingGenerator, QwenImageEditor

            self._draw, self._edits = EditingGenerator(self._generator, QwenImageEditor(cfg, device)).draw, True

    def __call__(self, batch: Batch) -> Batch:
        """Generates the images of one shard. Those of an earlier, interrupted start are not generated again."""
        from pipelines.preferences.roles.batches import BatchDrawer  # it imports torch

        async def generate() -> Batch:
            drawer = BatchDrawer(self._draw, self._batch)
            cache = ImageCache(shard_images(self._services.images, shard_of(batch)), self._name, self._identity)
            maker = self._services.pair_maker(cache.cached(drawer), self._services.judge(), self._name, self._edits)
            records = records_of(batch)
            prompts = [record for record in records if isinstance(record, PromptPair)]
            self._generator.announce(text for prompt in prompts for text in prompt.texts)
            return with_records(batch, await map_live_async(records, maker.generate))

        return asyncio.run(generate())

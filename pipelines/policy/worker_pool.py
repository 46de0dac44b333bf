"""The workers that sample: rollout actors, which come and go, and learner ranks if they are colocated.

The pool distributes calls, replaces dead actors, and repeats their calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from actors.types import SampleReport
from actors.workers.faults import DeviceFaultError
from actors.workers.sampling_calls import CALLS_PER_ACTOR
from conf import UserError
from pipelines.policy.call_limit import CallAbandonedError, CallKind
from pipelines.policy.slot_queue import Priority, SlotQueue
from pipelines.policy.supervision import Supervision
from pipelines.policy.timing import BusyTime, TimeWeightedGauge

Call = Callable[[Any], list[ray.ObjectRef[Any]]]
"""Calls an actor. Returns the reference of its SampleReport, then those of its results."""

MAX_BACKOFF_S = 60.0
"""Longest wait before an actor that could not start is tried again."""

MAX_FAILED_STARTS = 10
"""Failed starts in a row, without a working actor left, after which the run ends."""


class WorkerPool:
    """Sends each call to the least busy worker with a free slot, by priority. Use it inside one event loop.

    It asks Ray for `max_actors` at once. Actors that find no resources stay pending: an autoscaler adds nodes for them,
    and Ray starts them on any node that joins. The pool works with as many actors as there are, and with learner ranks
    that `join` it.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        max_actors: int,
        min_actors: int = 1,
        kill: Callable[[Any], object] = ray.kill,
        supervision: Supervision | None = None,
    ) -> None:
        """`start` starts one actor and returns its handle at once. `kill` ends an actor.

        `supervision` limits the calls and records the faults of devices; None: one with the usual limits.
        """
        self._start, self._kill, self._supervision = start, kill, supervision or Supervision()
        self.max_actors, self.min_actors, self._wanted = max_actors, min_actors, 0
        self.actors: list[Any] = []
        """Running and pending actors."""
        self._ready: set[Any] = set()
        self._removed: set[Any] = set()
        """Actors that died or were stopped, and ranks that died."""
        self._ranks: dict[Any, BusyTime] = {}
        """Learner ranks that sample too, and how long they did."""
        self._slots = SlotQueue()
        self._calls: Counter[Any] = Counter()
        """Calls that an actor is working on."""
        self._starting: set[asyncio.Task[None]] = set()
        self._min_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not min_actors:
            self._min_ready.set_result(None)
        self._deaths_in_a_row = 0
        self._failed_starts = 0
        self.ready_actors, self.busy_actors = TimeWeightedGauge(), TimeWeightedGauge()
        self.replaced = 0
        """Actors that died or could not start, and were replaced."""
        self.reissued = 0
        """Calls that were repeated because their actor died or did not return."""
        self.scale_up()

    # --- size -------------------------------------------------------------------------------------------------------

    def scale_up(self) -> None:
        """Asks for all of `max_actors` again."""
        self._wanted = self.max_actors
        self._refill()

    def scale_down(self) -> None:
        """Stops one actor, down to `min_actors`, so that another role finds resources. No work is lost.

        A pending actor is stopped first, otherwise the one that became ready last, after its current calls.
        """
        if self._wanted <= self.min_actors:
            return
        self._wanted -= 1
        actor = next((actor for actor in reversed(self.actors) if actor not in self._ready), self.actors[-1])
        self._remove(actor)
        if not self._calls[actor]:
            self._kill(actor)

    def any_ready(self) -> bool:
        """Whether anybody can take calls."""
        return bool(self._ready or self._ranks)

    async def ready(self) -> None:
        """Returns once `min_actors` can take calls. Raises the error that kept the actors from starting."""
        await asyncio.shield(self._min_ready)

    def _refill(self) -> None:
        while len(self.actors) < self._wanted:
            actor = self._start()
            self.actors.append(actor)
            task = asyncio.get_running_loop().create_task(self._wait_until_ready(actor))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    # --- life of an actor -------------------------------------------------------------------------------------------

    async def _wait_until_ready(self, actor: Any) -> None:
        try:
            await actor.ready.remote()
        except RayActorError as error:
            if error.actor_init_failed:
                await self._on_failed_start(actor, error)
            else:
                self._on_death(actor, error)
        except Exception as error:  # e.g. its runtime environment could not be built
            await self._on_failed_start(actor, error)
        else:
            self._on_ready(actor)

    def _on_ready(self, actor: Any) -> None:
        """Opens the actor's call slots."""
        if actor in self._removed:
            return
        self._failed_starts = 0
        self._ready.add(actor)
        self.ready_actors.add(1)
        self._slots.add(actor, CALLS_PER_ACTOR)
        if len(self._ready) >= self.min_actors and not self._min_ready.done():
            self._min_ready.set_result(None)

    async def _on_failed_start(self, actor: Any, error: Exception) -> None:
        """Replaces an actor that could not start, unless no actor ever could: then the error ends the run.

        If others started before, the cause is likely temporary: a model hub that is down, or GPU memory that a dead
        process still holds.
        """
        if not self._min_ready.done() or (not self._ready and self._failed_starts >= MAX_FAILED_STARTS):
            self._fail_waiters(error)
        elif actor not in self._removed:
            self._remove(actor)
            wait = min(MAX_BACKOFF_S, 2.0**self._failed_starts)
            self._failed_starts += 1
            logging.getLogger(__name__).warning(
                "a rollout actor could not start; the next attempt is in %.0f s: %s", wait, error
            )
            await asyncio.sleep(wait)
            self.replaced += 1
            self._refill()

    def _on_death(self, actor: Any, error: Exception) -> None:
        """Replaces an actor that died, that ends because its device failed, or that does not return. Idempotent.

        Ends the run if actors die one after another without finishing a call, or do not have enough memory.
        """
        if actor in self._removed:
            return
        self._remove(actor)
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > 5 * self.max_actors:
            self._fail_waiters(error)
            return
        if isinstance(error, DeviceFaultError):
            try:
                self._supervision.faults.record(error.fault)
            except UserError as too_little_memory:
                self._fail_waiters(too_little_memory)
                return
        if not isinstance(error, RayActorError) or isinstance(error, ActorUnavailableError):
            self._kill(actor)  # it may still run; its calls are repeated elsewhere
        self.replaced += 1
        self._refill()

    def _remove(self, actor: Any) -> None:
        """Removes an actor from the pool. It gets no further calls."""
        self._removed.add(actor)
        self._slots.remove(actor)
        self.actors.remove(actor)
        if actor in self._ready:
            self._ready.remove(actor)
            self.ready_actors.add(-1)

    def _fail_waiters(self, error: Exception) -> None:
        """Raises `error` in every call that waits for an actor, and in `ready`."""
        self._slots.fail(error)
        if not self._min_ready.done():
            self._min_ready.set_exception(error)

    # --- learner ranks that sample too ------------------------------------------------------------------------------

    def join(self, ranks: Sequence[Any]) -> None:
        """Lets learner ranks take calls. They are not replaced: if one dies, its calls raise LearnerLostError."""
        self._ranks = {rank: BusyTime() for rank in ranks}
        for rank in ranks:
            self._slots.add(rank, CALLS_PER_ACTOR)

    def leave(self) -> None:
        """Gives the ranks that joined no further calls."""
        for rank in self._ranks:
            self._slots.remove(rank)
            self._calls.pop(rank, None)
        self._ranks = {}

    @asynccontextmanager
    async def claimed(self, rank: Any) -> AsyncGenerator[None]:
        """Waits until nothing is left that `rank` could sample. During the block it gets no calls.

        Does nothing for a rank that did not join.
        """
        if rank not in self._ranks:
            yield
            return
        await self._slots.claim(rank)
        try:
            yield
        finally:
            self._slots.release_all(rank)

    def sampling_seconds(self, rank: Any) -> float:
        """Seconds in which a rank has sampled since it joined. 0 if it did not join."""
        return self._ranks[rank].seconds if rank in self._ranks else 0.0

    def rank_sampling_seconds(self) -> float:
        """`sampling_seconds`, as a mean over the ranks that joined."""
        return sum(busy.seconds for busy in self._ranks.values()) / max(len(self._ranks), 1)

    # --- calls ------------------------------------------------------------------------------------------------------

    async def call(
        self, kind: CallKind, priority: Priority, method: Call
    ) -> tuple[SampleReport, list[ray.ObjectRef[Any]]]:
        """Calls a free worker, and another one if an actor dies or does not return.

        Returns the worker's report and the references of its results, which stay in the object store. Raises
        LearnerLostError if a rank died.
        """
        while True:
            actor = await self._slots.acquire(priority)
            if actor not in self._ready and actor not in self._ranks:
                continue
            is_rank = actor in self._ranks
            self._on_call_start(actor)
            try:
                report, *references = method(actor)
                async with self._supervision.limits.limit(kind):
                    result = await report
            except (RayActorError, DeviceFaultError, CallAbandonedError) as error:
                if is_rank:
                    lost = self._supervision.rank_lost(error, is_first=actor not in self._removed)
                    self._removed.add(actor)
                    raise lost from error
                self.reissued += 1
                self._on_death(actor, error)
                continue
            finally:
                self._on_call_end(actor)
            if not is_rank:
                self._deaths_in_a_row = 0
                self._supervision.faults.progress("rollout")
            return result, references

    def _on_call_start(self, actor: Any) -> None:
        self._calls[actor] += 1
        if actor in self._ranks:
            self._ranks[actor].begin()
        elif self._calls[actor] == 1:
            self.busy_actors.add(1)

    def _on_call_end(self, actor: Any) -> None:
        """Releases the slot. An actor that was removed is killed after its last call."""
        if actor not in self._calls:  # a rank that left
            return
        self._calls[actor] -= 1
        if actor in self._ranks:
            self._ranks[actor].end()
        elif not self._calls[actor]:
            del self._calls[actor]
            self.busy_actors.add(-1)
            if actor in self._removed:
                self._kill(actor)
        self._slots.release(actor)

    def stop(self) -> None:
        """Kills all actors."""
        for task in self._starting:
            task.cancel()
        for actor in self.actors:
            self._kill(actor)

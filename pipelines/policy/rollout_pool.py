"""The elastic pool of rollout actors: hands out calls, replaces the dead, re-issues what they held."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from actors.policy.plan import SamplingPlan
from actors.workers.rollout import CALLS_PER_ACTOR, SampleReport, WeightsHandle, sampling_returns
from pipelines.policy.slot_queue import Priority, SlotQueue
from pipelines.policy.timing import TimeWeightedGauge

Call = Callable[[Any], list[ray.ObjectRef]]
EVALUATION: Priority = (-1, 0)
MAX_BACKOFF_S = 60.0  # before an actor that could not start is tried again
MAX_FAILED_STARTS = 10  # in a row, with no actor left that works


class RolloutPool:
    """Calls go to the first actor with a free place, the most urgent one first. Use inside one event loop.

    `most` actors are asked for at once. Those that find no room stay pending: an autoscaler adds nodes for them, and a
    node that joins takes them. The pool works with as many as there are.
    """

    def __init__(self, start: Callable[[], Any], most: int, least: int = 1) -> None:
        """`start` makes one actor and returns at once."""
        self._start = start
        self._slots = SlotQueue()
        self._gone: set[Any] = set()  # dead, or given up
        self._calls: Counter[Any] = Counter()  # under way, by actor
        self._starting: set[asyncio.Task[None]] = set()
        self._deaths_in_a_row = 0
        self._failed_starts = 0  # in a row
        self.max_actors, self.min_actors, self._wanted = most, least, 0
        self.actors: list[Any] = []  # pending ones too
        self._ready: set[Any] = set()
        self._min_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready_actors, self.busy_actors = TimeWeightedGauge(), TimeWeightedGauge()
        self.replaced = 0  # actors that died and were replaced
        self.reissued = 0  # calls that had to be made again
        self.scale_up()

    def scale_up(self) -> None:
        """Asks for all of `most` actors again."""
        self._wanted = self.max_actors
        self._refill()

    def _refill(self) -> None:
        while len(self.actors) < self._wanted:
            self._add_actor()

    def scale_down(self) -> None:
        """Does without one actor, down to `least`, so that another role finds room. No work is lost.

        A pending actor goes first, else the last one to be ready, as soon as it has finished the calls in its hands.
        """
        if self._wanted <= self.min_actors:
            return
        self._wanted -= 1
        pending = [actor for actor in self.actors if actor not in self._ready]
        leaver = pending[-1] if pending else self.actors[-1]
        self._remove(leaver)
        if not self._calls[leaver]:
            ray.kill(leaver)

    def any_ready(self) -> bool:
        """Whether an actor can take calls."""
        return bool(self._ready)

    async def ready(self) -> None:
        """Returns once `least` actors can take calls. Raises what kept the actors from starting."""
        await asyncio.shield(self._min_ready)

    def _add_actor(self) -> None:
        actor = self._start()
        self.actors.append(actor)
        task = asyncio.get_running_loop().create_task(self._when_ready(actor))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _when_ready(self, actor: Any) -> None:
        try:
            await actor.ready.remote()
        except RayActorError as error:
            if not error.actor_init_failed:
                self._on_death(actor, error)
            else:
                await self._try_again(actor, error)
        except Exception as error:  # its runtime environment could not be made
            await self._try_again(actor, error)
        else:
            self._on_ready(actor)

    async def _try_again(self, actor: Any, error: Exception) -> None:
        """Replaces an actor that could not start. One that never could has no successor: the error is the run's.

        Where others have started, theirs is a passing trouble: a model hub that is away, or memory that a dead
        process still holds.
        """
        if not self._min_ready.done() or (not self._ready and self._failed_starts >= MAX_FAILED_STARTS):
            self._fail_waiters(error)
        elif actor not in self._gone:
            self._remove(actor)
            wait = min(MAX_BACKOFF_S, 2.0**self._failed_starts)
            self._failed_starts += 1
            logging.getLogger(__name__).warning(
                "a rollout actor could not start; another one is tried in %.0f s: %s", wait, error
            )
            await asyncio.sleep(wait)
            self.replaced += 1
            self._refill()

    def _on_ready(self, actor: Any) -> None:
        """Offers a ready actor's places."""
        if actor in self._gone:
            return
        self._failed_starts = 0
        self._ready.add(actor)
        self.ready_actors.add(1)
        for _ in range(CALLS_PER_ACTOR):
            self._slots.release(actor)
        if len(self._ready) >= self.min_actors and not self._min_ready.done():
            self._min_ready.set_result(None)

    def _fail_waiters(self, error: Exception) -> None:
        """Hands an error that no further actor can mend to whoever waits for actors."""
        self._slots.fail(error)
        if not self._min_ready.done():
            self._min_ready.set_exception(error)

    def _remove(self, actor: Any) -> None:
        """Strikes an actor off the list; its places are offered no more."""
        self._gone.add(actor)
        self.actors.remove(actor)
        if actor in self._ready:
            self._ready.remove(actor)
            self.ready_actors.add(-1)

    def _on_death(self, actor: Any, error: RayActorError) -> None:
        """Starts a replacement, once a dead actor. Gives up when actors die one after another."""
        if actor in self._gone:
            return
        self._remove(actor)
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > 5 * self.max_actors:
            self._fail_waiters(error)
            return
        if isinstance(error, ActorUnavailableError):
            ray.kill(actor)  # it may live on out of reach; its work is re-issued, so it must not
        self.replaced += 1
        self._refill()

    async def _call(self, urgency: Priority, call: Call) -> tuple[SampleReport, list[ray.ObjectRef]]:
        """Makes `call` on a free actor until one finishes it; all its results stay in the object store."""
        while True:
            actor = await self._slots.acquire(urgency)
            if actor in self._gone:
                continue
            self._begin(actor)
            try:
                report, *references = call(actor)
                result = await report
            except RayActorError as error:
                self.reissued += 1
                self._on_death(actor, error)
                continue
            finally:
                self._end(actor)
            self._deaths_in_a_row = 0
            return result, references

    def _begin(self, actor: Any) -> None:
        self._calls[actor] += 1
        if self._calls[actor] == 1:
            self.busy_actors.add(1)

    def _end(self, actor: Any) -> None:
        """Offers the place again; an actor that was given up goes with its last call."""
        self._calls[actor] -= 1
        if not self._calls[actor]:
            del self._calls[actor]
            self.busy_actors.add(-1)
            if actor in self._gone:
                ray.kill(actor)
        if actor not in self._gone:
            self._slots.release(actor)

    async def sample_groups(
        self, urgency: Priority, texts: Sequence[str], seeds: Sequence[Sequence[int]],
        weights: Callable[[], WeightsHandle], plan: SamplingPlan,
    ) -> tuple[SampleReport, list[list[ray.ObjectRef]]]:  # fmt: skip
        """Every group's [images, conditioning, *trajectories], as references.

        `weights` is asked when the call is made.
        """
        groups, size = len(texts), len(seeds[0])
        returns = sampling_returns(groups, size)
        report, references = await self._call(
            urgency,
            lambda actor: actor.sample_groups.options(
                num_returns=returns, name=f"sample {groups * size} images to train on"
            ).remote(texts, seeds, weights(), plan),
        )
        each = len(references) // groups
        return report, [references[first : first + each] for first in range(0, len(references), each)]

    async def draw_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> ray.ObjectRef:
        """Images uint8 [B, H, W, 3] of (text, seed) pairs, as a reference."""
        _, (images,) = await self._call(
            EVALUATION,
            lambda actor: actor.draw_images.options(
                num_returns=2, name=f"draw {len(seeds)} held-out images of version {weights.version}"
            ).remote(texts, seeds, weights, plan),
        )
        return images

    def stop(self) -> None:
        """Kills all actors."""
        for task in self._starting:
            task.cancel()
        for actor in self.actors:
            ray.kill(actor)

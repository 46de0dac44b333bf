"""The pool of rollout actors: hands out calls, replaces the dead, re-issues what they held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from actors.flux.plan import SamplingPlan
from actors.rollout import SampleReport, WeightsHandle

CALLS_PER_ACTOR = 2
"""One running and one queued, so that an actor never waits for the driver."""

Call = Callable[[Any], list[ray.ObjectRef]]


class RolloutPool:
    """Calls go to the first actor with a free place, in the order they were made. Use inside one event loop."""

    def __init__(self, start: Callable[[], Any], actors: int) -> None:
        """`start` makes one actor and returns at once."""
        self._start = start
        self._places: asyncio.Queue[Any] = asyncio.Queue()  # an actor's handle, once a free place
        self._dead: set[Any] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._deaths_in_a_row = 0
        self.size = actors
        self.actors: list[Any] = []
        self.replaced = 0  # actors that died and were replaced
        self.reissued = 0  # calls that had to be made again
        for _ in range(actors):
            self._add_actor()

    def _add_actor(self) -> None:
        actor = self._start()
        self.actors.append(actor)
        task = asyncio.get_running_loop().create_task(self._when_ready(actor))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def ready(self) -> None:
        """Returns once one actor can take calls. Raises what kept the actors from starting."""
        place = await self._places.get()
        if isinstance(place, Exception):
            raise place
        self._places.put_nowait(place)

    async def _when_ready(self, actor: Any) -> None:
        try:
            await actor.ready.remote()
        except RayActorError as error:
            self._bury(actor, error)
        except Exception as error:  # hand it to whoever waits for a place
            self._places.put_nowait(error)
        else:
            for _ in range(CALLS_PER_ACTOR):
                self._places.put_nowait(actor)

    def _bury(self, actor: Any, error: RayActorError) -> None:
        """Starts a replacement, once a dead actor. Gives up when actors cannot start, or die one after another."""
        if actor in self._dead:
            return
        self._dead.add(actor)
        self.actors.remove(actor)
        self._deaths_in_a_row += 1
        if error.actor_init_failed or self._deaths_in_a_row > 5 * self.size:
            self._places.put_nowait(error)
            return
        if isinstance(error, ActorUnavailableError):
            ray.kill(actor)  # it may live on out of reach; its work is re-issued, so it must not
        self.replaced += 1
        self._add_actor()

    async def _call(self, call: Call) -> tuple[SampleReport, list[ray.ObjectRef]]:
        """Makes `call` on a free actor until one finishes it; all its results stay in the object store."""
        while True:
            actor = await self._places.get()
            if isinstance(actor, Exception):
                raise actor
            if actor in self._dead:
                continue
            try:
                report, *references = call(actor)
                result = await report
            except RayActorError as error:
                self.reissued += 1
                self._bury(actor, error)
                continue
            except BaseException:
                self._places.put_nowait(actor)
                raise
            self._places.put_nowait(actor)
            self._deaths_in_a_row = 0
            return result, references

    async def sample_group(
        self, text: str, seeds: Sequence[int], weights: Callable[[], WeightsHandle], plan: SamplingPlan
    ) -> tuple[SampleReport, list[ray.ObjectRef]]:
        """A group's (images, conditioning, *trajectories), as references. `weights` is asked when the call is made."""
        returns = len(seeds) + 3
        return await self._call(
            lambda actor: actor.sample_group.options(num_returns=returns).remote(text, seeds, weights(), plan)
        )

    async def draw_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> ray.ObjectRef:
        """Images uint8 [B, H, W, 3] of (text, seed) pairs, as a reference."""
        _, (images,) = await self._call(
            lambda actor: actor.draw_images.options(num_returns=2).remote(texts, seeds, weights, plan)
        )
        return images

    def stop(self) -> None:
        """Kills all actors."""
        for task in self._starting:
            task.cancel()
        for actor in self.actors:
            ray.kill(actor)

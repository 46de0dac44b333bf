"""Simulated GPUs, and actors on them that answer as Ray's do."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from ray.exceptions import ActorDiedError

from tests.bench.simulation.clock import Stopwatch

Value = TypeVar("Value")
Kind = Literal["sample", "learn", "score", "load", "other"]
"""What a GPU does. Only the first three are the work of an iteration."""


@dataclass
class Ref(Generic[Value]):
    """A reference of a result that never moves."""

    value: Value

    def __await__(self):
        return self.value
        yield


@dataclass(frozen=True)
class Job:
    """What a call does on its GPU."""

    kind: Kind
    seconds: float
    results: Callable[[], Sequence[Any]]
    """Called when it is finished. As many as the call's returns; a single one is a sequence of one."""
    together: Barrier | None = None
    """It begins when all members of the barrier have come to it."""


class Worker(Protocol):
    """The behaviour of an actor."""

    def job(self, name: str, args: Sequence[Any]) -> Job:
        """What a call of method `name` does. Called when the call begins."""
        ...


class Activity:
    """GPU-seconds by kind."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running, self._seconds = Counter[Kind](), defaultdict[Kind, float](float)
        self._since = loop.time()

    def change(self, kind: Kind, by: float) -> None:
        """More or fewer GPUs do this from now on."""
        self.read()
        self._running[kind] += by  # type: ignore[assignment] # a fraction of a GPU

    def read(self) -> dict[Kind, float]:
        """GPU-seconds until now."""
        passed = self._loop.time() - self._since
        if passed:
            for kind, count in self._running.items():
                self._seconds[kind] += count * passed
            self._since += passed
        return dict(self._seconds)


class Gpu:
    """One GPU. What runs on it at once shares its time equally."""

    def __init__(self, loop: asyncio.AbstractEventLoop, activity: Activity) -> None:
        self.free = 1.0
        """The fraction that no process has reserved."""
        self.actors: list[SimActor] = []
        self._loop, self._activity = loop, activity
        self._running: dict[SimActor, tuple[Kind, float]] = {}
        """What an actor does, and the seconds that it would still take alone."""
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, actor: SimActor, kind: Kind, seconds: float) -> None:
        """An actor begins to compute. `actor.finish` is called at the end."""
        self._advance()
        self._running[actor] = (kind, seconds)
        self._follow(1)

    def abandon(self, actor: SimActor) -> None:
        """What an actor computes is given up."""
        self._advance()
        if self._running.pop(actor, None):
            self._follow(-1)

    def _advance(self) -> None:
        """Counts the time since the last change."""
        now, count = self._loop.time(), len(self._running)
        for actor, (kind, left) in self._running.items():
            self._running[actor] = (kind, left - (now - self._since) / count)
            self._activity.change(kind, -1 / count)
        self._since = now

    def _follow(self, change: int) -> None:
        """Sets the timer of the next end."""
        count = len(self._running)
        for kind, _ in self._running.values():
            self._activity.change(kind, 1 / count)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if count:
            actor, (_, left) = min(self._running.items(), key=lambda item: item[1][1])
            self._timer = self._loop.call_later(max(left, 0.0) * count, self._end, actor)

    def _end(self, actor: SimActor) -> None:
        with actor.stopwatch.running():
            self._timer = None
            self.abandon(actor)
            actor.finish()


class Fleet:
    """The GPUs of a simulation, and what they do."""

    def __init__(self, gpus: int, jitter: float = 0.0, seed: int = 0) -> None:
        """`jitter`: standard deviation of a call's duration, as a fraction of it."""
        self.loop = asyncio.get_running_loop()
        self.stopwatch = Stopwatch()
        self.activity = Activity(self.loop)
        self.gpus = [Gpu(self.loop, self.activity) for _ in range(gpus)]
        self.calls = 0
        """Calls of actors so far."""
        self.returns = 0
        """Objects that they returned."""
        self._with_room = dict.fromkeys(self.gpus)
        self._pending: deque[SimActor] = deque()
        self._rng = np.random.default_rng(seed)
        self._jitter = jitter

    def lasting(self, seconds: float) -> float:
        """The duration of one call whose mean is `seconds`."""
        if not self._jitter:
            return seconds
        return seconds * max(1 + self._jitter * float(self._rng.standard_normal()), 0.5)

    def start(self, worker: Worker, gpus: float, load_seconds: float) -> SimActor:
        """Starts an actor on a GPU of which it reserves a share, as soon as one has room."""
        with self.stopwatch.running():
            actor = SimActor(self, worker, gpus, load_seconds)
            self._pending.append(actor)
            self._place()
            return actor

    def fail(self, gpu: Gpu) -> None:
        """A GPU fails: the processes on it die. It can be used again."""
        with self.stopwatch.running():
            for actor in list(gpu.actors):
                self.end(actor)

    def end(self, actor: SimActor) -> None:
        """Ends an actor. Its calls fail, and its share of the GPU is free for others."""
        with self.stopwatch.running():
            if actor in self._pending:
                self._pending.remove(actor)
            gpu = actor.gpu
            actor.die()
            if gpu:
                gpu.actors.remove(actor)
                gpu.free = round(gpu.free + actor.share, 6)
                self._with_room[gpu] = None
            self._place()

    def _place(self) -> None:
        """Places what waits, in order, each on the first GPU with room."""
        while self._pending:
            actor = self._pending[0]
            gpu = next((gpu for gpu in self._with_room if gpu.free >= actor.share), None)
            if gpu is None:
                return
            self._pending.popleft()
            gpu.free = round(gpu.free - actor.share, 6)
            if not gpu.free:
                del self._with_room[gpu]
            gpu.actors.append(actor)
            actor.place(gpu)


@dataclass(eq=False)
class _Call:
    name: str
    args: tuple[Any, ...]
    future: asyncio.Future[Any]
    others: list[Ref[Any]]
    job: Job | None = None


class SimActor:
    """The handle of an actor: `actor.method.remote(...)` answers after the virtual seconds that the work takes.

    It works on one call after the other.
    """

    def __init__(self, fleet: Fleet, worker: Worker, share: float, load_seconds: float) -> None:
        self.share = share
        """The fraction of a GPU that it reserves."""
        self.gpu: Gpu | None = None
        self.dead, self.stopwatch = False, fleet.stopwatch
        self._fleet, self.worker, self._load_seconds = fleet, worker, load_seconds
        self._calls: deque[_Call] = deque()
        self._current: _Call | None = None
        self._loading: asyncio.TimerHandle | None = None
        self._loaded = False

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def submit(self, name: str, args: tuple[Any, ...], returns: int) -> Any:
        """Queues a call. Returns its reference, or one for each return."""
        fleet = self._fleet
        with fleet.stopwatch.running():
            fleet.calls += 1
            fleet.returns += returns
            call = _Call(name, args, fleet.loop.create_future(), [Ref(None) for _ in range(returns - 1)])
            if self.dead:
                call.future.set_exception(ActorDiedError())
            else:
                self._calls.append(call)
                self._next()
            return call.future if returns == 1 else [call.future, *call.others]

    def place(self, gpu: Gpu) -> None:
        """It got its share of a GPU, and loads."""
        self.gpu = gpu
        self._fleet.activity.change("load", 1)
        self._loading = self._fleet.loop.call_later(self._load_seconds, self._on_loaded)

    def _on_loaded(self) -> None:
        with self._fleet.stopwatch.running():
            self._fleet.activity.change("load", -1)
            self._loading, self._loaded = None, True
            self._next()

    def _next(self) -> None:
        """Begins the next call."""
        if self._current or not self._calls or not self._loaded:
            return
        call = self._current = self._calls.popleft()
        try:
            call.job = self.worker.job(call.name, call.args)
        except Exception as error:  # as in an actor: it is raised where the call is awaited
            self._current = None
            call.future.set_exception(error)
            return
        if call.job.together:
            call.job.together.come(self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._current and self._current.job and self.gpu:
            job = self._current.job
            self.gpu.begin(self, job.kind, self._fleet.lasting(job.seconds))

    def finish(self) -> None:
        """The call's work is done."""
        call, self._current = self._current, None
        assert call and call.job
        if not call.future.done():
            first, *others = call.job.results()
            for reference, value in zip(call.others, others, strict=True):
                reference.value = value
            call.future.set_result(first)
        self._next()

    def die(self) -> None:
        """All its calls fail, also those to come."""
        if self.dead:
            return
        self.dead = True
        if self._loading:
            self._loading.cancel()
            self._fleet.activity.change("load", -1)
        if self.gpu:
            self.gpu.abandon(self)
        for call in (*([self._current] if self._current else []), *self._calls):
            if not call.future.done():
                call.future.set_exception(ActorDiedError())
                call.future.exception()  # it need not be awaited
        self.gpu = self._current = None
        self._calls.clear()


@dataclass(frozen=True)
class _Method:
    actor: SimActor
    name: str
    returns: int = 1

    def options(self, num_returns: int = 1, **_: Any) -> _Method:
        """As Ray's."""
        return _Method(self.actor, self.name, num_returns)

    def remote(self, *args: Any) -> Any:
        """As Ray's."""
        return self.actor.submit(self.name, args, self.returns)


class Barrier:
    """Lets its members begin together, as a collective does."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._waiting: list[Callable[[], None]] = []

    def come(self, begin: Callable[[], None]) -> None:
        """A member is here."""
        self._waiting.append(begin)
        if len(self._waiting) == self._members:
            waiting, self._waiting = self._waiting, []
            for member in waiting:
                member()

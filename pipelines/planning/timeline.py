"""The timeline of one iteration: which GPU samples, scores and learns when, from the seconds of each call.

A discrete-event model of the loop. A free GPU takes, in this order: a group to score, a chunk to sample, its next share
to learn. A group is scored when all its chunks are decoded, and learned when it is scored. An optimizer step waits for
all shares of its groups and, where the ranks sample too, for the last chunk of the weights before it. A reward replica
that shares a GPU delays the other work there by its own seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil

from actors.grpo.shares import Share, divide_groups
from conf.policy import PolicySettings
from pipelines.planning.durations import RoleSeconds, kept_images
from pipelines.planning.fleet import Machine


@dataclass(frozen=True)
class Iteration:
    """One iteration in the steady state."""

    seconds: float
    sample_seconds: float
    """Summed over GPUs, like the next two."""
    score_seconds: float
    learn_seconds: float
    gpus: int
    samplers: int
    """GPUs that sample, like the next two."""
    scorers: int
    learners: int

    @property
    def busy(self) -> float:
        """Share of the fleet's time that is work."""
        return (self.sample_seconds + self.score_seconds + self.learn_seconds) / self.seconds / self.gpus


@dataclass
class _Worker:
    """A GPU, and what it is doing."""

    machine: Machine
    works: bool = False
    """Whether it samples or learns."""
    scores: bool = False
    scores_until: float = 0.0
    delay: float = 0.0
    """Seconds by which scoring postpones the other work."""


class Timeline:
    """Runs iterations one after the other, from policy version 0."""

    def __init__(self, policy: PolicySettings, seconds: RoleSeconds, fleet: Sequence[Machine]) -> None:
        """`fleet`: with one GPU for each rank, and at least one that samples."""
        self._policy, self._seconds = policy, seconds
        self._workers = [_Worker(machine) for machine in fleet]
        self._has_scorers = any(machine.scores for machine in fleet)
        self._has_rollouts = any(machine.samples and machine.rank is None for machine in fleet)
        self._now, self._order = 0.0, count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._chunks: deque[int] = deque()  # the group of each chunk that is still to be sampled
        self._chunks_left: dict[int, int] = {}  # group -> chunks that are not yet decoded
        self._to_score: deque[int] = deque()
        self._scored: set[int] = set()
        self._shares: list[deque[Share]] = []  # of each rank in this optimizer step
        self._open_shares = self._first_group = self._version = self._launched = 0
        self._spent = {"sample": 0.0, "score": 0.0, "learn": 0.0}
        self._passes = range(ceil(kept_images(policy) * seconds.rows_per_image / seconds.chunk_rows))

    def run(self, iterations: int) -> Iteration:
        """Runs this many iterations, and returns the last one."""
        started, spent = 0.0, dict(self._spent)
        for _ in range(iterations):
            started, spent = self._now, dict(self._spent)
            self._iterate()
        used = {name: total - spent[name] for name, total in self._spent.items()}
        machines = [worker.machine for worker in self._workers]
        return Iteration(
            seconds=self._now - started,
            sample_seconds=used["sample"],
            score_seconds=used["score"],
            learn_seconds=used["learn"],
            gpus=len(machines),
            samplers=sum(machine.samples for machine in machines),
            scorers=sum(machine.scores for machine in machines),
            learners=sum(machine.rank is not None for machine in machines),
        )

    def _iterate(self) -> None:
        policy, seconds = self._policy, self._seconds
        self._launch()
        groups, ranks = policy.prompts_per_iteration // policy.optimizer.steps_per_iteration, policy.learner.ranks
        for step in range(policy.optimizer.steps_per_iteration):
            self._first_group = self._version * policy.prompts_per_iteration + step * groups
            self._shares = [deque(shares) for shares in divide_groups(groups, ranks)]
            self._open_shares = sum(map(len, self._shares))
            self._wake()
            while self._open_shares or self._samples_these_weights():
                self._next_event()
            self._advance(seconds.optimizer_step)
            self._spent["learn"] += seconds.optimizer_step * ranks
        if self._has_rollouts:
            self._advance(seconds.publish)
        self._version += 1

    def _launch(self) -> None:
        """Queues the chunks of all groups that the staleness rule allows."""
        policy = self._policy
        allowed = (self._version + 1 + policy.max_staleness) * policy.prompts_per_iteration
        chunks = policy.group_size // self._seconds.chunk_images
        for group in range(self._launched, allowed):
            self._chunks.extend([group] * chunks)
            self._chunks_left[group] = chunks
        self._launched = allowed

    def _samples_these_weights(self) -> bool:
        """Whether an optimizer step must wait, because the ranks sample with the weights before it."""
        return self._policy.placement == "colocated" and bool(self._chunks_left)

    # --- events -----------------------------------------------------------------------------------------------------

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), then))

    def _next_event(self) -> None:
        self._now, _, then = heapq.heappop(self._events)
        then()
        self._wake()

    def _advance(self, seconds: float) -> None:
        """Lets time pass in which the driver waits."""
        end = self._now + seconds
        while self._events and self._events[0][0] <= end:
            self._next_event()
        self._now = end

    def _wake(self) -> None:
        """Gives work to the GPUs that can take some."""
        for worker in self._workers:
            if self._to_score and worker.machine.scores and not worker.scores:
                self._score(worker, self._to_score.popleft())
            if worker.works:
                continue
            if self._chunks and worker.machine.samples:
                self._sample(worker, self._chunks.popleft())
            elif worker.machine.rank is not None:
                self._learn(worker, worker.machine.rank)

    def _work(self, worker: _Worker, role: str, seconds: float, then: Callable[[], None]) -> None:
        """Occupies a GPU, for longer if scoring delays it."""
        worker.works = True
        worker.delay = max(worker.scores_until - self._now, 0.0)
        self._spent[role] += seconds

        def finish() -> None:
            if worker.delay:
                late, worker.delay = worker.delay, 0.0
                self._after(late, finish)
                return
            worker.works = False
            then()

        self._after(seconds, finish)

    def _sample(self, worker: _Worker, group: int) -> None:
        encoding = self._seconds.encode_prompt

        def then() -> None:
            self._chunks_left[group] -= 1
            if not self._chunks_left[group]:
                del self._chunks_left[group]
                (self._to_score.append if self._has_scorers else self._scored.add)(group)

        self._work(worker, "sample", encoding + self._seconds.sample_chunk + self._seconds.decode_chunk, then)

    def _score(self, worker: _Worker, group: int) -> None:
        seconds = self._seconds.score_group
        worker.scores = True
        worker.scores_until = self._now + seconds
        worker.delay += seconds if worker.works else 0.0
        self._spent["score"] += seconds

        def finish() -> None:
            worker.scores = False
            self._scored.add(group)

        self._after(seconds, finish)

    def _learn(self, worker: _Worker, rank: int) -> None:
        """Starts the rank's next share if its group is scored."""
        shares = self._shares[rank] if self._shares else None
        if not shares or self._first_group + shares[0].group not in self._scored:
            return
        passes = len(shares.popleft().part.cut(self._passes))

        def then() -> None:
            self._open_shares -= 1

        self._work(worker, "learn", passes * self._seconds.accumulate_chunk, then)


def iterate(policy: PolicySettings, seconds: RoleSeconds, fleet: Sequence[Machine]) -> Iteration:
    """One iteration in the steady state."""
    return Timeline(policy, seconds, fleet).run(1 if not policy.max_staleness else 3)

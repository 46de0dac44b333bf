"""The Ray side of judging: an actor that asks chat judges about chunks of images, and saves each chunk."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from actors.services.budget import Budget
from actors.services.endpoint import Endpoint, EndpointError
from actors.services.keys import Key
from conf.endpoints import ChatSettings
from pipelines.benchmark.items import Benchmark, BenchmarkItem, ChatBenchmark, Judgement, Unreadable, Wording
from pipelines.benchmark.judgement_files import write_judgements
from pipelines.benchmark.judges import UNFINISHED, ChatJudge, answers_of, shows_image_first
from pipelines.benchmark.logprob_judge import LogprobJudge

JUDGED, MISSING = "judged", "missing"
"""Names of the counts of images with and without a readable judgement."""


@dataclass(frozen=True)
class JudgeChunk:
    """Images whose judgements are saved together."""

    name: str  # of the benchmark
    file: str  # parquet file
    images: tuple[tuple[BenchmarkItem, int], ...]
    paths: tuple[str, ...]  # of the image files; "" if there is none


@dataclass(frozen=True)
class ChatJudgeSetup:
    """Who judges the images of one benchmark, and how it is asked."""

    benchmark: Benchmark
    wording: Wording
    judge: ChatSettings
    key: Key
    attempts: int


class Counter(Protocol):
    """Counts work by name."""

    def add(self, name: str, count: int) -> None:
        """Adds to a count."""
        ...


@dataclass(frozen=True)
class JudgeContext:
    """What the actor needs."""

    chats: Mapping[str, ChatJudgeSetup]  # benchmark -> its judge
    exact: bool  # the exact checker answers: chat judges through a server in this process, boxes by inspection
    budget: Budget
    cache: str  # folder or URI of replies
    counter: Counter


def save_chunk(chunk: JudgeChunk, judgements: Sequence[Judgement], counter: Counter) -> None:
    """Writes the judgements of a chunk, and counts its images."""
    write_judgements(chunk.file, judgements)
    missing = sum(isinstance(each, Unreadable) for each in judgements)
    counter.add(JUDGED, len(judgements) - missing)
    counter.add(MISSING, missing)


class Judge(Protocol):
    """Judges images of one benchmark."""

    async def judge_all(
        self, images: Sequence[tuple[BenchmarkItem, int]], files: Sequence[bytes | None]
    ) -> list[Judgement]:
        """The judgements, in order. `files`: contents of the image files; None for one that does not exist."""
        ...


class JudgeActor:
    """Judges chunks, several at once. One endpoint is shared by the benchmarks whose judges have one section."""

    def __init__(self, context: JudgeContext) -> None:
        self._context = context
        self._judges: dict[str, Judge] = {}
        self._endpoints: dict[str, Endpoint] = {}

    async def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Column `chunk` [B]: pickled JudgeChunk. Returns `error` [B]: why no call can succeed, or ""."""
        errors = [await self._judge(pickle.loads(packed)) for packed in rows["chunk"]]
        return {"error": np.array(errors, dtype=object)}

    async def _judge(self, chunk: JudgeChunk) -> str:
        files = await asyncio.to_thread(lambda: [Path(path).read_bytes() if path else None for path in chunk.paths])
        try:
            judgements = await self._judge_of(chunk.name).judge_all(chunk.images, files)
        except EndpointError as error:
            return str(error)
        await asyncio.to_thread(save_chunk, chunk, judgements, self._context.counter)
        return ""

    def _judge_of(self, name: str) -> Judge:
        """Made in the event loop that uses it."""
        if name not in self._judges:
            setup = self._context.chats.get(name)
            if setup is None:
                from pipelines.benchmark.exact import ExactBoxes

                self._judges[name] = ExactBoxes()
            else:
                self._judges[name] = self._service(setup)
        return self._judges[name]

    def _service(self, setup: ChatJudgeSetup) -> Judge:
        endpoint, judge = self._endpoint(setup), setup.judge
        if not isinstance(setup.benchmark, ChatBenchmark):
            return LogprobJudge(endpoint)
        first, answers = shows_image_first(judge), answers_of(judge)
        return ChatJudge(setup.benchmark, setup.wording, endpoint, setup.attempts, first, answers)

    def _endpoint(self, setup: ChatJudgeSetup) -> Endpoint:
        context, section = self._context, setup.judge.section
        if section not in self._endpoints:
            judge = setup.judge
            if context.exact:
                from pipelines.benchmark.exact import with_exact_server

                judge = with_exact_server(judge)
            self._endpoints[section] = Endpoint(judge, setup.key, context.budget, context.cache)
        return self._endpoints[section]


def is_finished(judgements: Sequence[Judgement] | None) -> bool:
    """Whether judgements are those of a chunk for which no call needs to be made again."""
    return judgements is not None and not any(
        isinstance(each, Unreadable) and each.why == UNFINISHED for each in judgements
    )

"""A chat judge of one benchmark: item and image file in, judgement out. Knows endpoints, and neither Ray nor torch.

A reply that cannot be read is asked for again, with another attempt number, so that the cached reply is not taken.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.images import ImageError, decode_image
from actors.services.budget import BudgetReached
from actors.services.endpoint import AnswerTruncated, ContentRefused, Endpoint, QuestionRejected, RetriesExhausted
from actors.services.image_question import file_url, question_parts
from conf.benchmark import SpatialGenEvalJudgeSettings, UniGenBenchJudgeSettings
from conf.endpoints import ChatSettings
from pipelines.benchmark.items import (
    Answer,
    BenchmarkItem,
    ChatBenchmark,
    Failure,
    JudgeCall,
    Judgement,
    Misread,
    Parsed,
    Unreadable,
    Wording,
    without_image,
)
from pipelines.benchmark.spatialgeneval import combine
from pipelines.common.images import encode_jpeg

JPEG_QUALITY = 95
"""Quality of the images that the open evaluators of UniGenBench++ are shown."""

UNFINISHED: Failure = "call failed"
"""The reason of a judgement that another start may still obtain."""


class ServiceJudge(ABC):
    """A judge that asks a service about each image."""

    @abstractmethod
    async def judge(self, item: BenchmarkItem, image: int, file: bytes | None) -> Judgement:
        """The judgement of one image. `file`: the content of its PNG file; None if there is none."""

    async def judge_all(
        self, images: Sequence[tuple[BenchmarkItem, int]], files: Sequence[bytes | None]
    ) -> list[Judgement]:
        """The judgements of several images, in order. Raises EndpointError if no call can succeed."""
        calls = (self.judge(item, image, file) for (item, image), file in zip(images, files, strict=True))
        return list(await asyncio.gather(*calls))


@dataclass(frozen=True)
class ChatJudge(ServiceJudge):
    """Asks all questions of an image in one call, until a reply can be read or `attempts` replies were not."""

    benchmark: ChatBenchmark
    wording: Wording
    endpoint: Endpoint
    attempts: int
    image_first: bool = False  # and as JPEG
    answers: int = 1  # about each image; an image without all of them has none

    async def judge(self, item: BenchmarkItem, image: int, file: bytes | None) -> Judgement:
        """The judgement of one image. `file`: the content of its PNG file; None if there is none.

        Raises EndpointError if no call can succeed.
        """
        url = await shown_image(item, image, file, jpeg=self.image_first)
        if isinstance(url, Unreadable):
            return url
        found = await asyncio.gather(*(self._answer(item, image, url, number) for number in range(self.answers)))
        answers = [each for each in found if isinstance(each, Answer)]
        if len(answers) == len(found):
            return answers[0] if len(answers) == 1 else joined(answers)
        failures = [each for each in found if isinstance(each, Unreadable)]
        return next((each for each in failures if each.why == UNFINISHED), failures[0])

    async def _answer(self, item: BenchmarkItem, image: int, url: str, number: int) -> Judgement:
        """The first readable reply to one of the `answers` calls about an image."""
        failed = Unreadable(item.id, image, UNFINISHED)
        for attempt in range(self.attempts):
            made, asked = attempt + 1, attempt * self.answers + number
            call = self.benchmark.ask(item, image, asked, self.wording)
            try:
                reply = await self.endpoint.chat(messages_of(call, url, self.image_first), attempt=asked)
            except AnswerTruncated as error:
                failed = Unreadable(item.id, image, "cut", str(error), attempts=made)
                continue
            except (ContentRefused, QuestionRejected) as error:
                failed = Unreadable(item.id, image, "refused", str(error), attempts=made)
                continue
            except (RetriesExhausted, BudgetReached) as error:
                return Unreadable(item.id, image, UNFINISHED, str(error), attempts=made)
            parsed = self.benchmark.parse(item, reply)
            if isinstance(parsed, Misread):
                failed = Unreadable(item.id, image, "malformed", parsed.reason, reply, made)
                continue
            return Answer(
                item.id,
                image,
                parsed.values,
                parsed.notes,
                officially_lost=parsed.officially_lost,
                raw=reply,
                attempts=made,
            )
        return failed


def joined(answers: Sequence[Answer]) -> Answer:
    """Several answers about one image as one: per question the letters that it got, such as "CCCBC"."""
    first = answers[0]
    values = combine([Parsed(each.values) for each in answers])
    raw, notes = "\n\n".join(each.raw for each in answers), tuple(note for each in answers for note in each.notes)
    return Answer(first.item, first.image, values, notes, raw=raw, attempts=sum(each.attempts for each in answers))


def messages_of(call: JudgeCall, url: str, image_first: bool = False) -> list[dict[str, Any]]:
    """The messages of a call: a system line, if there is one, and one user turn of text and image."""
    content = question_parts(call.text, [url], text_first=not (call.image_first or image_first))
    system: list[dict[str, Any]] = [{"role": "system", "content": call.system}] if call.system else []
    return [*system, {"role": "user", "content": content}]


async def shown_image(item: BenchmarkItem, image: int, file: bytes | None, jpeg: bool) -> str | Unreadable:
    """The data URL of an image, or its judgement if there is no image to show."""
    if file is None:
        return without_image(item, image)
    try:
        return await asyncio.to_thread(image_url, file, jpeg)
    except ImageError as error:
        return without_image(item, image, error)


def image_url(file: bytes, jpeg: bool) -> str:
    """A PNG file as a data URL: its bytes as they are, or as JPEG. Raises ImageError if the file is no image."""
    pixels = decode_image(file)  # a damaged file must not be paid for
    kind, content = ("jpeg", encode_jpeg(pixels, JPEG_QUALITY)) if jpeg else ("png", file)
    return file_url(content, kind)


def shows_image_first(judge: ChatSettings) -> bool:
    """Whether a judge takes the image before the text, as JPEG."""
    return isinstance(judge, UniGenBenchJudgeSettings) and judge.image_first


def answers_of(judge: ChatSettings) -> int:
    """How many answers about each image a judge gives."""
    return judge.answers if isinstance(judge, SpatialGenEvalJudgeSettings) else 1


def judge_identity(judge: ChatSettings, wording: Wording, attempts: int) -> dict[str, Any]:
    """Everything that decides a judge's answers, for digests and manifests. The address is not part of it."""
    identity = judge.identity()
    repeated: dict[str, Any] = {}
    if isinstance(judge, SpatialGenEvalJudgeSettings):
        repeated = {"answers": judge.answers, "shuffle": judge.shuffle}
    return {
        **repeated,
        "model": judge.model,
        "options": identity.answer_options(),
        "image_first": shows_image_first(judge),
        "wording": wording.sha256,
        "attempts": attempts,
    }

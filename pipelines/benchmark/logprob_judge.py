"""The judge of GenEval 2: one call a question, and the probability of the right first token counts."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from actors.services.budget import BudgetReached
from actors.services.endpoint import ContentRefused, Endpoint, QuestionRejected, RetriesExhausted
from pipelines.benchmark.geneval2 import ask_one, probability
from pipelines.benchmark.items import Answer, BenchmarkItem, Judgement, Question, Unreadable
from pipelines.benchmark.judges import UNFINISHED, ServiceJudge, messages_of, shown_image


@dataclass(frozen=True)
class _Asked:
    """The answer to one question."""

    word: str = ""  # the likeliest first token; "" if there is no answer
    probability: float = math.nan  # of the right answer
    failure: str = ""  # why another start may obtain an answer
    refused: str = ""


@dataclass(frozen=True)
class LogprobJudge(ServiceJudge):
    """Asks the questions of an image one by one. A question that the service refuses has the probability NaN."""

    endpoint: Endpoint

    async def judge(self, item: BenchmarkItem, image: int, file: bytes | None) -> Judgement:
        """The judgement of one image. `file`: the content of its PNG file; None if there is none.

        Raises EndpointError if no call can succeed, or if the service gives no log-probabilities.
        """
        url = await shown_image(item, image, file, jpeg=False)
        if isinstance(url, Unreadable):
            return url
        asked = await asyncio.gather(*(self._ask(question, url) for question in item.questions))
        if failure := next((each.failure for each in asked if each.failure), ""):
            return Unreadable(item.id, image, UNFINISHED, failure, attempts=len(asked))
        if all(each.refused for each in asked):
            return Unreadable(item.id, image, "refused", asked[0].refused, attempts=len(asked))
        words, probabilities = tuple(each.word for each in asked), tuple(each.probability for each in asked)
        return Answer(item.id, image, words, probabilities=probabilities, attempts=len(asked))

    async def _ask(self, question: Question, url: str) -> _Asked:
        try:
            found = await self.endpoint.first_token(messages_of(ask_one(question), url))
        except (ContentRefused, QuestionRejected) as error:
            return _Asked(refused=str(error))
        except (RetriesExhausted, BudgetReached) as error:
            return _Asked(failure=str(error))
        return _Asked(max(found, key=lambda token: found[token]), probability(question, found))

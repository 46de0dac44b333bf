"""The writer and the perturber as language models behind an OpenAI-compatible endpoint, with structured outputs.

If an answer breaks a rule, the model is asked again and told the rule, a limited number of times. Then the row is
dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from actors.services.budget import BudgetReached
from actors.services.endpoint import AnswerTruncated, ContentRefused, Endpoint, QuestionRejected, RetriesExhausted
from actors.types import Prompt, Relation
from conf.endpoints import PerturberSettings, WriterSettings
from pipelines.common.relations import FIXED, can_change, split_group
from pipelines.preferences.checks.perturbation import check_perturbation
from pipelines.preferences.checks.statements import check_statements
from pipelines.preferences.checks.words import InvalidAnswer, words_of
from pipelines.preferences.dataset.distribution import Assignment, assign, draw_edit_count
from pipelines.preferences.roles.base import Dropped, PromptPair, RowSpec
from pipelines.preferences.roles.llm_prompts import PERTURB, WRITE, PerturbedPrompt, WrittenPrompt

A = TypeVar("A", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class ChatWriter:
    """Asks for one prompt for each row. Scene and number of relations are drawn from the paper's distribution."""

    endpoint: Endpoint
    settings: WriterSettings

    async def write(self, specs: Sequence[RowSpec]) -> list[PromptPair | Dropped]:
        """Returns one PromptPair for each row, in order. Raises EndpointError if no call can succeed."""
        return list(await asyncio.gather(*(or_dropped(spec, "writer", self._write(spec)) for spec in specs)))

    async def _write(self, spec: RowSpec) -> PromptPair:
        settings = self.settings
        assignment = assign(spec, settings.min_relations, settings.max_relations)
        question = WRITE.format(
            fewest=settings.min_words,
            most=settings.max_words,
            scene=assignment.scene,
            relations=assignment.relations,
            viewpoint=assignment.viewpoint,
            fixed=", ".join(FIXED),
            variation=assignment.variation,
        )
        return await ask_until_valid(
            self.endpoint,
            question,
            WrittenPrompt,
            settings.attempts,
            lambda answer: self._prompt_pair(spec, assignment, answer),
        )

    def _prompt_pair(self, spec: RowSpec, assignment: Assignment, answer: WrittenPrompt) -> PromptPair:
        """The checked answer. Raises InvalidAnswer if it breaks a rule."""
        relations = tuple(Relation(stated.subject, stated.relation, stated.object) for stated in answer.relations)
        phrases = tuple(stated.phrase for stated in answer.relations)
        words, settings = len(answer.prompt.split()), self.settings
        if len(relations) != assignment.relations:
            raise InvalidAnswer("relations", f"there must be {assignment.relations} relations, got {len(relations)}")
        if not settings.min_words <= words <= settings.max_words:
            raise InvalidAnswer(
                "length", f"the prompt must have {settings.min_words} to {settings.max_words} words, got {words}"
            )
        if not answer.frame.strip() or answer.frame.lower() not in answer.prompt.lower():
            raise InvalidAnswer(
                "frame", f"the prompt must state the point of view in the words of `frame`, got frame {answer.frame!r}"
            )
        check_statements(answer.prompt, relations, phrases, answer.frame)
        prompt = Prompt(_prompt_id(answer.prompt), answer.prompt, relations, {"frame": answer.frame})
        return PromptPair(spec, prompt, assignment.scene, split_group(relations), phrases)


@dataclass(frozen=True)
class ChatPerturber:
    """Asks for a prompt with one, or two to three, changed relations, and checks it without a model."""

    endpoint: Endpoint
    settings: PerturberSettings
    single_edit_fraction: float  # fraction of prompts with exactly one changed relation

    async def perturb(self, prompts: Sequence[PromptPair]) -> list[PromptPair | Dropped]:
        """Adds the contradicting prompts, in order. Raises EndpointError if no call can succeed."""
        pairs = (or_dropped(prompt.spec, "perturber", self._perturb(prompt)) for prompt in prompts)
        return list(await asyncio.gather(*pairs))

    async def _perturb(self, prompt: PromptPair) -> PromptPair:
        relations = prompt.prompt.relations
        changeable = [str(i) for i, relation in enumerate(relations, start=1) if can_change(relation)]
        count = draw_edit_count(prompt.spec, len(changeable), self.single_edit_fraction)
        numbered = (f"{i}. {r.subject} {r.relation} {r.object}" for i, r in enumerate(relations, start=1))
        question = PERTURB.format(
            prompt=prompt.prompt.text, relations="\n".join(numbered), count=count, changeable=", ".join(changeable)
        )
        return await ask_until_valid(
            self.endpoint,
            question,
            PerturbedPrompt,
            self.settings.attempts,
            lambda answer: _with_perturbed(prompt, count, answer),
        )


def _with_perturbed(prompt: PromptPair, count: int, answer: PerturbedPrompt) -> PromptPair:
    """The pair with the checked answer. Raises InvalidAnswer if it breaks a rule."""
    before = prompt.prompt.relations
    changed = {one.number - 1: Relation(one.subject, one.relation, one.object) for one in answer.changes}
    if len(changed) != count or not changed.keys() <= set(range(len(before))):
        numbers = sorted(i + 1 for i in changed)
        raise InvalidAnswer("relations", f"exactly {count} of the {len(before)} relations must change, got {numbers}")
    edits = check_perturbation(prompt.prompt.text, before, prompt.phrases, answer.prompt, changed)
    after = tuple(changed.get(i, relation) for i, relation in enumerate(before))
    perturbed = Prompt(_prompt_id(answer.prompt), answer.prompt, after, prompt.prompt.metadata)
    return replace(prompt, perturbed=perturbed, edits=edits)


async def ask_until_valid(
    endpoint: Endpoint,
    question: str | Sequence[Mapping[str, Any]],
    form: type[A],
    attempts: int,
    read: Callable[[A], T],
) -> T:
    """Asks until `read` accepts the answer. After `attempts` answers it raises the last InvalidAnswer.

    `question`: a text, or the parts of a message that holds images. A refusal counts as an invalid answer.
    """
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    schema = {"name": form.__name__, "schema": form.model_json_schema(), "strict": True}
    problem = InvalidAnswer("malformed", "the model gave no answer")
    for attempt in range(1, attempts + 1):
        text = ""
        try:
            text = await endpoint.chat(messages, schema, attempt - 1)
            return read(form.model_validate_json(text))
        except ContentRefused as refusal:
            problem = InvalidAnswer("refused", str(refusal))
        except ValidationError as error:
            problem = InvalidAnswer("malformed", "; ".join(one["msg"] for one in error.errors())[:300])
        except InvalidAnswer as error:
            problem = error
        correction = f"Answer {attempt} is not valid: {problem.message}. Fix this and give the whole answer again."
        own = [{"role": "assistant", "content": text}] if text else []  # so that it can correct what it wrote
        messages = [messages[0], *own, {"role": "user", "content": correction}]
    raise problem


async def or_dropped(spec: RowSpec, role: str, work: Awaitable[T]) -> T | Dropped:
    """The result of `work`, or why the row ends here."""
    try:
        return await work
    except InvalidAnswer as error:
        return Dropped(spec, role, error.reason, error.message)
    except ContentRefused as error:
        return Dropped(spec, role, "refused", str(error))
    except QuestionRejected as error:
        return Dropped(spec, role, "rejected", str(error))
    except AnswerTruncated as error:
        return Dropped(spec, role, "truncated", str(error), final=False)
    except RetriesExhausted as error:
        return Dropped(spec, role, "unanswered", str(error), final=False)
    except BudgetReached as error:
        return Dropped(spec, role, "budget", str(error), final=False)


def _prompt_id(text: str) -> str:
    return hashlib.blake2b(" ".join(words_of(text)).encode(), digest_size=6).hexdigest()

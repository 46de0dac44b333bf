"""The writer and the perturber as language models behind an OpenAI-compatible endpoint, with structured outputs.

An answer that breaks a rule is sent back with the rule, a bounded number of times; then the row is dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from actors.services.budget import BudgetReached
from actors.services.endpoint import ContentRefused, Endpoint, RetriesExhausted
from actors.types import Prompt, Relation
from conf.endpoints import PerturberSettings, WriterSettings
from pipelines.common.relations import BETWEEN, split_group
from pipelines.preferences.checks.prompt_checks import InvalidAnswer, check_perturbation, check_statements, words_of
from pipelines.preferences.dataset.distribution import Assignment, assign, count_of_changes
from pipelines.preferences.roles.base import Dropped, PromptPair, RowSpec
from pipelines.preferences.roles.llm_prompts import PERTURB, WRITE, PerturbedPrompt, WrittenPrompt

A = TypeVar("A", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class ChatWriter:
    """Asks for one prompt a task, drawn from the paper's distribution."""

    endpoint: Endpoint
    settings: WriterSettings

    async def write(self, tasks: Sequence[RowSpec]) -> list[PromptPair | Dropped]:
        """One draft a task, in order. Raises EndpointError if no call can succeed."""
        return list(await asyncio.gather(*(or_dropped(task, "writer", self._write(task)) for task in tasks)))

    async def _write(self, task: RowSpec) -> PromptPair:
        own = self.settings
        wanted = assign(task, own.min_relations, own.max_relations)
        question = WRITE.format(
            fewest=own.min_words, most=own.max_words, scene=wanted.scene, relations=wanted.relations,
            viewpoint=wanted.viewpoint, between=BETWEEN, variation=wanted.variation,
        )  # fmt: skip
        return await ask_until_valid(
            self.endpoint, question, WrittenPrompt, own.attempts, lambda answer: self._read(task, wanted, answer)
        )

    def _read(self, task: RowSpec, wanted: Assignment, answer: WrittenPrompt) -> PromptPair:
        relations = tuple(Relation(told.subject, told.relation, told.object) for told in answer.relations)
        phrases = tuple(told.phrase for told in answer.relations)
        length = len(answer.prompt.split())
        if len(relations) != wanted.relations:
            raise InvalidAnswer("relations", f"there must be {wanted.relations} relations, got {len(relations)}")
        if not self.settings.min_words <= length <= self.settings.max_words:
            raise InvalidAnswer(
                "length", f"the prompt must have {self.settings.min_words} to {self.settings.max_words} words"
            )
        if not answer.frame.strip() or answer.frame.lower() not in answer.prompt.lower():
            raise InvalidAnswer(
                "frame", f"the prompt must say whose view it takes in the words of `frame`, {answer.frame!r}"
            )
        check_statements(answer.prompt, relations, phrases)
        prompt = Prompt(_digest(answer.prompt), answer.prompt, relations, {"frame": answer.frame})
        return PromptPair(task, prompt, wanted.scene, split_group(relations), phrases)


@dataclass(frozen=True)
class ChatPerturber:
    """Asks for a prompt in which one, or two to three, relations are changed, and checks it without a model."""

    endpoint: Endpoint
    settings: PerturberSettings
    one: float  # share of prompts with exactly one changed relation

    async def perturb(self, drafts: Sequence[PromptPair]) -> list[PromptPair | Dropped]:
        """Adds the contradicting prompts, in order. Raises EndpointError if no call can succeed."""
        return list(await asyncio.gather(*(or_dropped(d.task, "perturber", self._perturb(d)) for d in drafts)))

    async def _perturb(self, draft: PromptPair) -> PromptPair:
        relations = draft.prompt.relations
        count = count_of_changes(draft.task, len(relations), self.one)
        told = (f"{i}. {r.subject} {r.relation} {r.object}" for i, r in enumerate(relations, start=1))
        question = PERTURB.format(prompt=draft.prompt.text, relations="\n".join(told), count=count)
        return await ask_until_valid(
            self.endpoint, question, PerturbedPrompt, self.settings.attempts, lambda answer: _read(draft, count, answer)
        )


def _read(draft: PromptPair, count: int, answer: PerturbedPrompt) -> PromptPair:
    before, phrases = draft.prompt.relations, draft.phrases
    changed = {told.number - 1: Relation(told.subject, told.relation, told.object) for told in answer.changes}
    if len(changed) != count or not changed.keys() <= set(range(len(before))):
        raise InvalidAnswer(
            "relations", f"exactly {count} of the {len(before)} relations must change, got {sorted(changed)}"
        )
    changes = check_perturbation(draft.prompt.text, before, phrases, answer.prompt, changed)
    after = tuple(changed.get(i, relation) for i, relation in enumerate(before))
    prompt = Prompt(_digest(answer.prompt), answer.prompt, after, draft.prompt.metadata)
    return replace(draft, perturbed=prompt, changes=changes)


async def ask_until_valid(endpoint: Endpoint, question: str, form: type[A], attempts: int, read: Callable[[A], T]) -> T:
    """Asks until `read` raises no Unfit. Raises the last Unfit; a refusal is one, too."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    schema = {"name": form.__name__, "schema": form.model_json_schema(), "strict": True}
    trouble = InvalidAnswer("malformed", "no answer was read")
    for attempt in range(1, attempts + 1):
        try:
            text = await endpoint.chat(messages, schema)
            return read(form.model_validate_json(text))
        except ContentRefused as refusal:
            trouble = InvalidAnswer("refused", str(refusal))
        except ValidationError as error:
            trouble = InvalidAnswer("malformed", "; ".join(problem["msg"] for problem in error.errors())[:300])
        except InvalidAnswer as error:
            trouble = error
        again = f"Answer {attempt} cannot be used: {trouble.message}. Mend this and answer in full once more."
        messages = [messages[0], {"role": "user", "content": again}]
    raise trouble


async def or_dropped(task: RowSpec, role: str, work: Any) -> Any:
    """The result of `work` (an awaitable), or why the row ends here."""
    try:
        return await work
    except InvalidAnswer as trouble:
        return Dropped(task, role, trouble.reason, trouble.message)
    except ContentRefused as refusal:
        return Dropped(task, role, "refused", str(refusal))
    except RetriesExhausted as silence:
        return Dropped(task, role, "unanswered", str(silence), final=False)
    except BudgetReached as limit:
        return Dropped(task, role, "budget", str(limit), final=False)


def _digest(text: str) -> str:
    return hashlib.blake2b(" ".join(words_of(text)).encode(), digest_size=6).hexdigest()

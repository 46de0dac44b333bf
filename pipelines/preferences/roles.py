"""The four roles that make a preference pair, and the records they hand to one another.

    Task --writer--> Draft --perturber--> Draft --painter--> Painted --reviewer--> Review

Every role works on a list, so that an implementation may batch its forwards or bound its concurrent calls as it likes,
and answers in the order it was asked. What it answers follows from its input and the task's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.records import Prompt
from pipelines.preferences.picture import Picture

KINDS = ("perturbed", "exploit", "generated")


@dataclass(frozen=True)
class Task:
    """One row to make."""

    index: int  # of the row in the whole build
    kind: str  # one of KINDS
    seed: int  # of everything random about the row


@dataclass(frozen=True)
class Change:
    """What is wrong in the loser, e.g. "flip", from "red circle left of blue square" to "red circle right of …"."""

    kind: str
    before: str
    after: str


@dataclass(frozen=True)
class Draft:
    """A pair in words."""

    task: Task
    prompt: Prompt
    scene: str  # the kind of place, e.g. "Kitchen"; here the form of the sentence
    group_id: str  # equal for prompts that must share a split
    perturbed: Prompt | None = None  # what the loser shows instead; None where the prompt itself is not changed
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Painted:
    """A pair in pictures. The painter adds its own changes to the draft where it spoils a picture on purpose."""

    draft: Draft
    winner: Picture
    loser: Picture


@dataclass(frozen=True)
class Review:
    """Whether the winner shows the prompt and the loser does not."""

    status: str  # accepted | rejected
    votes: tuple[str, ...]  # one a reviewer: "w", "l" or "tie"
    agreement: float  # share of votes for the most frequent answer
    gold: bool  # the truth of this pair is known exactly

    @property
    def accepted(self) -> bool:
        return self.status == "accepted"


class Writer(Protocol):
    """Writes one prompt a task."""

    def write(self, tasks: Sequence[Task]) -> list[Draft]: ...


class Perturber(Protocol):
    """Changes one to three spatial relations of a prompt and nothing else, so that the result contradicts it."""

    def perturb(self, drafts: Sequence[Draft]) -> list[Draft]: ...


class Painter(Protocol):
    """Paints both sides of a pair."""

    def paint(self, drafts: Sequence[Draft]) -> list[Painted]: ...


class Reviewer(Protocol):
    """Accepts a pair whose winner shows the prompt and whose loser does not."""

    def review(self, pairs: Sequence[Painted]) -> list[Review]: ...

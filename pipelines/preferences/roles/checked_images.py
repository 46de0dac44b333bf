"""Both images of a pair, each generated again with another seed until a check of its claims passes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from pipelines.preferences.checks.words import InvalidAnswer
from pipelines.preferences.claims import Answer, ClaimRule, outcome, rule_of
from pipelines.preferences.roles.base import Dropped, ImageCheck, PromptPair, RawImage, RawPair, RowSpec, ignore
from pipelines.preferences.roles.chat import or_dropped
from pipelines.preferences.roles.claim_judge import ClaimJudge, claim_texts


@dataclass(frozen=True)
class ImageRequest:
    """What determines one image of a generator."""

    text: str
    seed: int
    source: RawImage | None = field(default=None, compare=False)
    """An image that is edited as `text` says; None: a new one is generated."""


Draw = Callable[[ImageRequest], Awaitable[RawImage]]
"""Generates one image."""


@dataclass(frozen=True)
class CheckRules:
    """How images are checked before people see them."""

    tries: int
    """Images of a side at most."""
    audit_fraction: float
    """Fraction of the rows that keep their first images whatever the check says, so that its errors are measured."""
    edit_losers: bool = False
    """Losers are made by editing the winner."""


@dataclass(frozen=True)
class _Side:
    image: RawImage
    answers: tuple[Answer, ...]
    tries: int


class PairMaker:
    """Makes pairs from a generator of single images. Without a judge the first image of each side is taken."""

    def __init__(
        self, draw: Draw, judge: ClaimJudge | None, rules: CheckRules, count: Callable[[int], None] = ignore
    ) -> None:
        """`count` receives the number of pairs that are done, as they are done."""
        self._draw, self._judge, self._rules, self._count = draw, judge, rules, count

    async def generate(self, prompts: Sequence[PromptPair]) -> list[RawPair | Dropped]:
        """Returns one pair for each prompt, in order, or why there is none. Raises EndpointError."""
        pairs = (or_dropped(prompt.spec, "generator", self._pair(prompt)) for prompt in prompts)
        return list(await asyncio.gather(*pairs))

    async def _pair(self, prompt: PromptPair) -> RawPair:
        try:
            return await (self._plain_pair(prompt) if self._judge is None else self._checked_pair(prompt, self._judge))
        finally:
            self._count(1)

    async def _plain_pair(self, prompt: PromptPair) -> RawPair:
        texts, seed = prompt.texts, prompt.image_seed
        if self._rules.edit_losers:
            winner = await self._draw(ImageRequest(texts[0], seed))
            loser = await self._draw(ImageRequest(edit_text(prompt), seed, winner))
        else:
            winner, loser = await asyncio.gather(*(self._draw(ImageRequest(text, seed)) for text in texts))
        return RawPair(prompt, winner, loser)

    async def _checked_pair(self, prompt: PromptPair, judge: ClaimJudge) -> RawPair:
        """The winner first: a pair whose winner is never right needs no loser."""
        relations = [(one.subject, one.relation, one.object) for one in prompt.prompt.relations]
        rule = rule_of(prompt.spec.kind, relations, (edit.before for edit in prompt.edits), len(prompt.edits))
        audit = is_audited(prompt.spec, self._rules.audit_fraction)
        first, second = (ImageRequest(text, prompt.image_seed) for text in prompt.texts)
        winner = await self._side(prompt, first, judge, audit, lambda answers: _passes(rule, answers))
        if self._rules.edit_losers:
            second = ImageRequest(edit_text(prompt), prompt.image_seed, winner.image)
        loser = await self._side(prompt, second, judge, audit, lambda answers: _fails_as_meant(rule, answers))
        check = ImageCheck(winner.answers, loser.answers, (winner.tries, loser.tries), audit)
        return RawPair(prompt, winner.image, loser.image, check)

    async def _side(
        self,
        prompt: PromptPair,
        first: ImageRequest,
        judge: ClaimJudge,
        audit: bool,
        grade: Callable[[Sequence[Answer]], int],
    ) -> _Side:
        """The first image of the best grade 2, else the first one of grade 1. Raises InvalidAnswer for grade 0 only."""
        second: _Side | None = None
        answers: tuple[Answer, ...] = ()
        for attempt in range(self._rules.tries):
            image = await self._draw(replace(first, seed=try_seed(prompt, attempt)))
            answers = await judge.answer(image.pixels, prompt.prompt)
            side = _Side(image, answers, attempt + 1)
            passed = grade(answers)
            if passed == 2 or audit:
                return side
            second = second or (side if passed else None)
        if second:
            return second
        failed = [claim for claim, answer in zip(claim_texts(prompt.prompt), answers, strict=True) if answer == "no"]
        raise InvalidAnswer("check", f"no image of {self._rules.tries} passed; in the last one, not true: {failed}")


EDIT = """\
Edit the image so that it shows this: {perturbed}

Change only this: {changes}. Keep everything else as it is: every object, its look and size, the place, the light, the \
style and the point of view."""


def edit_text(prompt: PromptPair) -> str:
    """The instruction by which the winner of a pair becomes its loser."""
    changes = "; ".join(f'instead of "{edit.before}", "{edit.after}"' for edit in prompt.edits)
    return EDIT.format(perturbed=prompt.texts[1], changes=changes)


def try_seed(prompt: PromptPair, attempt: int) -> int:
    """The seed of an image of a row: the row's own one first, then others below 2^31 that derive from it."""
    if not attempt:
        return prompt.image_seed
    digest = hashlib.blake2b(f"{prompt.spec.seed}|try {attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


def is_audited(spec: RowSpec, fraction: float) -> bool:
    """Whether a row keeps its first images whatever the check says. It follows from the row's seed."""
    digest = hashlib.blake2b(f"{spec.seed}|audit".encode(), digest_size=4).digest()
    return int.from_bytes(digest) < fraction * 2**32


def _passes(rule: ClaimRule, answers: Sequence[Answer]) -> int:
    """2 if no claim about a winner is answered with no. Doubts are left to people."""
    return 0 if "no" in answers else 2


def _fails_as_meant(rule: ClaimRule, answers: Sequence[Answer]) -> int:
    """2 for the tier strict of a loser, 1 for ordered, 0 if it violates no changed claim. Doubts count as right."""
    meant: list[Answer] = ["no" if claim in rule.changed else "yes" for claim in range(rule.claims)]
    certain: list[Answer] = [
        mean if answer == "unsure" else answer for mean, answer in zip(meant, answers, strict=True)
    ]
    right: list[Answer] = ["yes"] * rule.claims
    tier = outcome(rule, right, certain).tier
    return {"strict": 2, "ordered": 1, None: 0}[tier]

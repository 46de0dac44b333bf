"""The four roles of the preference stage in the scenes world, where the truth of every picture is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.types import Relation
from pipelines.common.images import StoredImage
from pipelines.common.relations import split_group
from pipelines.preferences.roles.base import Edit, ImagePair, PromptPair, Review, RowSpec
from pipelines.scenes import grammar, render
from pipelines.scenes.checker import Verdict, check
from pipelines.scenes.render import Placement

RENDERER = "scenes-renderer"
SHORT_SHARE, LONGEST_SHARE = 0.4, 0.15  # of prompts have one relation, and three; the others two

# Streams of one task's seed: what one role draws does not depend on how much another one drew.
_WRITE, _PERTURB, _PAINT = range(3)


def task_rng(task: RowSpec, *path: int) -> np.random.Generator:
    """The random numbers of one role for one task."""
    return np.random.default_rng([task.seed, *path])


@dataclass(frozen=True)
class SceneWriter:
    """Sentences of the grammar, from the training side of its held-out rule."""

    def write(self, tasks: Sequence[RowSpec]) -> list[PromptPair]:
        """One sentence a task."""
        return [self.write_one(task) for task in tasks]

    def write_one(self, task: RowSpec, attempt: int = 0) -> PromptPair:
        """The sentence of a task; `attempt` gives another one for the same task."""
        rng = task_rng(task, _WRITE, attempt)
        n_objects = int(rng.choice((2, 3, 4), p=(SHORT_SHARE, 1 - SHORT_SHARE - LONGEST_SHARE, LONGEST_SHARE)))
        scene = grammar.write_scene(rng, n_objects)
        return PromptPair(task, scene.prompt(), _form(scene), split_group(scene.relations))


@dataclass(frozen=True)
class ScenePerturber:
    """Turns or flips relations of a sentence. Drafts of other kinds than `perturbed` pass unchanged."""

    one: float = 0.5  # share of perturbed prompts with exactly one changed relation

    def perturb(self, drafts: Sequence[PromptPair]) -> list[PromptPair]:
        """Adds the contradicting prompt and what was changed."""
        return [self._perturb(draft) if draft.task.kind == "perturbed" else draft for draft in drafts]

    def _perturb(self, draft: PromptPair) -> PromptPair:
        rng = task_rng(draft.task, _PERTURB)
        scene = grammar.parse(draft.prompt.text)
        changed, changes = grammar.perturb(scene, self._count(len(scene.words), rng), rng)
        if grammar.equivalent(scene, changed):
            raise ValueError(f"{changed.text!r} says the same as {scene.text!r}: a perturbed prompt must contradict it")
        told = tuple(Edit(change.kind, sentence(change.before), sentence(change.after)) for change in changes)
        return replace(draft, perturbed=changed.prompt(), changes=told)

    def _count(self, relations: int, rng: np.random.Generator) -> int:
        # Sentences with one relation fill their share of `one` already; the others fill the rest of it.
        long_one = max(0.0, (self.one - SHORT_SHARE) / (1 - SHORT_SHARE))
        return 1 if relations == 1 or rng.random() < long_one else int(rng.integers(2, relations + 1))


@dataclass(frozen=True)
class SceneGenerator:
    """The renderer. The loser shows the perturbed prompt, or the prompt with one object spoiled (`exploit`)."""

    def generate(self, drafts: Sequence[PromptPair]) -> list[ImagePair]:
        """Both pictures of every draft, each in a layout of its own."""
        return [self._generate(draft) for draft in drafts]

    def _generate(self, draft: PromptPair) -> ImagePair:
        rng = task_rng(draft.task, _PAINT)
        scene = grammar.parse(draft.prompt.text)
        winner = render.lay_out(scene, rng)
        if draft.perturbed is None:
            loser, change = _corrupt(render.lay_out(scene, rng), rng)
            draft = replace(draft, changes=(change,))
        else:
            loser = render.lay_out(grammar.parse(draft.perturbed.text), rng)
        return ImagePair(draft, _image(winner, draft.task, rng), _image(loser, draft.task, rng))


@dataclass(frozen=True)
class SceneReviewer:
    """The exact checker: the winner must show its prompt, the loser must not."""

    def review(self, pairs: Sequence[ImagePair]) -> list[Review]:
        """One vote a pair. Between generated pictures the one that shows more of the prompt must win."""
        return [self._review(pair) for pair in pairs]

    def _review(self, pair: ImagePair) -> Review:
        asked = pair.draft.prompt.relations
        instead = pair.draft.perturbed.relations if pair.draft.perturbed else ()
        winner = check(pair.winner.pixels(), asked)
        both = check(pair.loser.pixels(), (*asked, *instead))  # one look for both sentences: their objects are the same
        loser = Verdict(both.present, both.outcomes[: len(asked)])
        shown = Verdict(both.present, both.outcomes[len(asked) :])
        better = num_satisfied(winner) > num_satisfied(loser)
        accepted = better if pair.draft.task.kind == "generated" else winner.perfect and not loser.perfect
        vote = "w" if better else "l" if num_satisfied(loser) > num_satisfied(winner) else "tie"
        faithful = not instead or shown.perfect  # the loser shows what it is said to show
        return Review("accepted" if accepted and faithful else "rejected", (vote,), agreement=1.0, gold=True)


def num_satisfied(verdict: Verdict) -> int:
    """What makes one picture of a prompt better than another: relations that hold and objects that are there.

    Both count the same. Were relations to come first, a picture that leaves an object out would beat a whole one with
    one relation less, and a policy would learn to leave it out.
    """
    return verdict.right + sum(verdict.present.values())


def sentence(relation: Relation) -> str:
    """A relation in words."""
    return f"{relation.subject} {relation.relation} {relation.object}"


def _form(scene: grammar.Scene) -> str:
    if len(scene.words) == 1:
        return "pair"
    stars = scene.parents.count(0)
    return "star" if stars == len(scene.words) else "chain" if stars == 1 else "branch"


_Corrupt = Callable[[Sequence[Placement], np.random.Generator], tuple[Placement, ...]]
_EXPLOITS: tuple[tuple[str, _Corrupt], ...] = (
    ("missing", render.with_missing),
    ("doubled", render.with_double),
    ("recoloured", render.with_recoloured),
)


def _corrupt(placements: tuple[Placement, ...], rng: np.random.Generator) -> tuple[tuple[Placement, ...], Edit]:
    kind, spoil = _EXPLOITS[rng.integers(len(_EXPLOITS))]
    spoiled = spoil(placements, rng)
    gone = [placed.obj.name for placed in placements if placed not in spoiled]
    new = [placed.obj.name for placed in spoiled if placed not in placements]
    if kind == "doubled":
        twice = spoiled[-1].obj.name
        return spoiled, Edit(kind, twice, f"{twice} twice")
    if kind == "recoloured" and gone[0].split()[0] == new[0].split()[0]:
        kind = "reshaped"
    return spoiled, Edit(kind, gone[0], new[0] if new else "")


def _image(placements: Sequence[Placement], task: RowSpec, rng: np.random.Generator) -> StoredImage:
    return StoredImage.of(render.render(placements, rng), RENDERER, task.seed)

"""The four roles in the scenes world, which knows exactly what every image shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.types import Relation
from pipelines.common.images import StoredImage
from pipelines.common.relations import split_group
from pipelines.preferences.claims import Answer, ClaimRule, outcome, rule_of
from pipelines.preferences.roles.base import Edit, ImagePair, PromptPair, Review, RowSpec
from pipelines.preferences.row_values import PreferenceVote
from pipelines.scenes import grammar, render
from pipelines.scenes.checker import Verdict, check
from pipelines.scenes.render import Placement

RENDERER = "scenes-renderer"
ONE_RELATION, THREE_RELATIONS = 0.4, 0.15  # fractions of the prompts; the others have two relations

# Streams of a row's random numbers. What one role draws does not depend on how much another role drew.
_WRITE, _PERTURB, _RENDER = range(3)


def row_rng(spec: RowSpec, *stream: int) -> np.random.Generator:
    """The random numbers of one role for one row."""
    return np.random.default_rng([spec.seed, *stream])


@dataclass(frozen=True)
class SceneWriter:
    """Writes sentences of the grammar that belong to the training prompts."""

    def write(self, specs: Sequence[RowSpec]) -> list[PromptPair]:
        """Writes one sentence for each row."""
        return [self.write_one(spec) for spec in specs]

    def write_one(self, spec: RowSpec, attempt: int = 0) -> PromptPair:
        """Writes the sentence of a row. Another `attempt` gives another sentence for the same row."""
        rng = row_rng(spec, _WRITE, attempt)
        fractions = (ONE_RELATION, 1 - ONE_RELATION - THREE_RELATIONS, THREE_RELATIONS)
        scene = grammar.write_scene(rng, int(rng.choice((2, 3, 4), p=fractions)))
        return PromptPair(spec, scene.prompt(), _form(scene), split_group(scene.relations))


@dataclass(frozen=True)
class ScenePerturber:
    """Turns or flips relations of a sentence. Rows of other kinds than `perturbed` pass unchanged."""

    single_edit_fraction: float = 0.5  # of the perturbed prompts

    def perturb(self, prompts: Sequence[PromptPair]) -> list[PromptPair]:
        """Adds the contradicting prompt and its edits."""
        return [self._perturb(prompt) if prompt.spec.kind == "perturbed" else prompt for prompt in prompts]

    def _perturb(self, prompt: PromptPair) -> PromptPair:
        rng = row_rng(prompt.spec, _PERTURB)
        scene = grammar.parse(prompt.prompt.text)
        changed, changes = grammar.perturb(scene, self._num_edits(len(scene.words), rng), rng)
        if grammar.equivalent(scene, changed):
            raise ValueError(f"a perturbed prompt must contradict {scene.text!r}, got {changed.text!r}")
        edits = tuple(Edit(change.kind, sentence(change.before), sentence(change.after)) for change in changes)
        return replace(prompt, perturbed=changed.prompt(), edits=edits)

    def _num_edits(self, relations: int, rng: np.random.Generator) -> int:
        # Sentences with one relation already make up a part of `single_edit_fraction`. Longer ones make up the rest.
        single = max(0.0, (self.single_edit_fraction - ONE_RELATION) / (1 - ONE_RELATION))
        return 1 if relations == 1 or rng.random() < single else int(rng.integers(2, relations + 1))


@dataclass(frozen=True)
class SceneGenerator:
    """The renderer. The loser shows the perturbed prompt, or the prompt with one object corrupted."""

    def generate(self, prompts: Sequence[PromptPair]) -> list[ImagePair]:
        """Renders both images of every pair, each in its own layout."""
        return [self._generate(prompt) for prompt in prompts]

    def _generate(self, prompt: PromptPair) -> ImagePair:
        rng = row_rng(prompt.spec, _RENDER)
        scene = grammar.parse(prompt.prompt.text)
        winner = render.lay_out(scene, rng)
        if prompt.perturbed is None:
            loser, edit = _corrupt(render.lay_out(scene, rng), rng)
            prompt = replace(prompt, edits=(edit,))
        else:
            loser = render.lay_out(grammar.parse(prompt.perturbed.text), rng)
        return ImagePair(prompt, _image(winner, prompt.spec, rng), _image(loser, prompt.spec, rng))


@dataclass(frozen=True)
class SceneReviewer:
    """The exact checker: the winner must show its prompt, the loser must not."""

    def review(self, pairs: Sequence[ImagePair]) -> list[Review]:
        """Returns one review with one vote for each pair. Of two generated images the better one must be the winner."""
        return [self._review(pair) for pair in pairs]

    def _review(self, pair: ImagePair) -> Review:
        prompts = pair.prompts
        relations = prompts.prompt.relations
        perturbed = prompts.perturbed.relations if prompts.perturbed else ()
        winner = check(pair.winner.pixels(), relations)
        both = check(pair.loser.pixels(), (*relations, *perturbed))  # both sentences name the same objects
        loser = Verdict(both.present, both.outcomes[: len(relations)])
        loser_of_perturbed = Verdict(both.present, both.outcomes[len(relations) :])
        vote = _vote(num_satisfied(winner), num_satisfied(loser))
        generated = prompts.spec.kind == "generated"
        accepted = vote == "w" if generated else winner.perfect and not loser.perfect
        shows_perturbed = not perturbed or loser_of_perturbed.perfect
        if not (accepted and shows_perturbed):
            return Review("rejected", (vote,), agreement=1.0, gold=True)
        tier = outcome(_rule(prompts), _answers(winner), _answers(loser)).tier
        return Review("accepted", (vote,), agreement=1.0, gold=True, tier=tier)


def _rule(prompts: PromptPair) -> ClaimRule:
    relations = [(one.subject, one.relation, one.object) for one in prompts.prompt.relations]
    return rule_of(prompts.spec.kind, relations, (edit.before for edit in prompts.edits), len(prompts.edits))


def _answers(verdict: Verdict) -> list[Answer]:
    """The checker's result as answers about the claims of an image."""
    holds = [*verdict.present.values(), *(one == "right" for one in verdict.outcomes)]
    return ["yes" if one else "no" for one in holds]


def num_satisfied(verdict: Verdict) -> int:
    """How well an image shows its prompt: relations that hold plus objects that are present.

    Both count the same. If relations counted more, an image that leaves an object out would beat a complete image
    with one relation less, and a policy would learn to leave objects out.
    """
    return verdict.right + sum(verdict.present.values())


def sentence(relation: Relation) -> str:
    """A relation in words."""
    return f"{relation.subject} {relation.relation} {relation.object}"


def _vote(winner: int, loser: int) -> PreferenceVote:
    return "w" if winner > loser else "l" if loser > winner else "tie"


def _form(scene: grammar.Scene) -> str:
    """The shape of the scene's tree of relations."""
    if len(scene.words) == 1:
        return "pair"
    at_head = scene.parents.count(0)
    return "star" if at_head == len(scene.words) else "chain" if at_head == 1 else "branch"


_Corruption = Callable[[Sequence[Placement], np.random.Generator], tuple[Placement, ...]]
_CORRUPTIONS: tuple[tuple[str, _Corruption], ...] = (
    ("missing", render.with_missing),
    ("doubled", render.with_double),
    ("recoloured", render.with_recoloured),
)


def _corrupt(placements: tuple[Placement, ...], rng: np.random.Generator) -> tuple[tuple[Placement, ...], Edit]:
    kind, corruption = _CORRUPTIONS[rng.integers(len(_CORRUPTIONS))]
    corrupted = corruption(placements, rng)
    removed = [placed.obj.name for placed in placements if placed not in corrupted]
    added = [placed.obj.name for placed in corrupted if placed not in placements]
    if kind == "doubled":
        doubled = corrupted[-1].obj.name
        return corrupted, Edit(kind, doubled, f"{doubled} twice")
    if kind == "recoloured" and removed[0].split()[0] == added[0].split()[0]:
        kind = "reshaped"
    return corrupted, Edit(kind, removed[0], added[0] if added else "")


def _image(placements: Sequence[Placement], spec: RowSpec, rng: np.random.Generator) -> StoredImage:
    return StoredImage.of(render.render(placements, rng), RENDERER, spec.seed)

"""The language of the scenes world: objects, relations, sentences, perturbations and held-out relations.

A scene is a tree. Object 0 is the head. Relation i introduces object i+1 and relates it to the head ("and") or to the
object mentioned last ("that is"). A sentence states exactly the relations, so each can be computed from the other.

    a red circle left of a blue square                                  one relation: short
    a red circle left of a blue square and above a green triangle       the head is left of one and above the other
    a red circle left of a blue square that is above a green triangle   the blue square is above the triangle
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from actors.types import Prompt, Relation
from conf import SettingsError

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "green": (38, 150, 70),
    "blue": (45, 100, 220),
    "yellow": (245, 190, 30),
    "purple": (150, 65, 185),
    "black": (45, 48, 56),
}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MIRRORED = {"left of": "right of", "right of": "left of", "above": "above", "below": "below"}
MAX_OBJECTS = 4
LONG_OBJECTS = 3  # objects of a long prompt; the shipped base was trained on few scenes of four
HELD_OUT_PAIRS_PERCENT = 60
MAX_SHORT_HELD_OUT = 120  # of about 150

_OBJECT = rf"an? ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
_CLAUSE = re.compile(rf"^( and| that is|) ({'|'.join(RELATIONS)}) {_OBJECT}")


@dataclass(frozen=True)
class SceneObject:
    """A coloured shape."""

    color: str
    shape: str

    @property
    def name(self) -> str:
        """Colour and shape, e.g. "red circle"."""
        return f"{self.color} {self.shape}"

    @classmethod
    def named(cls, name: str) -> SceneObject:
        """Parses a name such as "red circle". Raises ValueError for an unknown colour or shape."""
        color, _, shape = name.partition(" ")
        if color not in COLORS or shape not in SHAPES:
            raise ValueError(
                f"an object is a colour ({', '.join(COLORS)}) and a shape ({', '.join(SHAPES)}), got {name!r}"
            )
        return cls(color, shape)


@dataclass(frozen=True)
class Scene:
    """Objects in the order of mention, and one relation for each object after the first.

    `parents[i]` is the index of the object that relation i relates to object i+1.
    """

    objects: tuple[SceneObject, ...]
    words: tuple[str, ...]  # relation i, from parent to child
    parents: tuple[int, ...]

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """The relations, with the names of their objects."""
        return tuple(
            Relation(self.objects[parent].name, word, self.objects[child].name)
            for child, (parent, word) in enumerate(zip(self.parents, self.words, strict=True), start=1)
        )

    @cached_property
    def text(self) -> str:
        """The sentence."""
        parts = [f"a {self.objects[0].name}"]
        for child, (parent, word) in enumerate(zip(self.parents, self.words, strict=True), start=1):
            link = "" if child == 1 else "and " if parent == 0 else "that is "
            parts.append(f"{link}{word} a {self.objects[child].name}")
        return " ".join(parts)

    def prompt(self) -> Prompt:
        """Returns the scene as a Prompt. Its id is a digest of its text."""
        digest = hashlib.blake2b(self.text.encode(), digest_size=6).hexdigest()
        return Prompt(id=digest, text=self.text, relations=self.relations)


@dataclass(frozen=True)
class Perturbation:
    """One changed relation. flip: to its opposite; turn: to the other axis."""

    kind: Literal["flip", "turn"]
    before: Relation
    after: Relation


def parse(text: str) -> Scene:
    """Parses a sentence. Raises ValueError if it does not follow the grammar of `Scene.text`."""
    head = re.match(_OBJECT, text)
    if not head:
        raise ValueError(f"a scene must begin with an object such as 'a red circle', got {text!r}")
    objects = [SceneObject(head[1], head[2])]
    words: list[str] = []
    parents: list[int] = []
    rest = text[head.end() :]
    while rest:
        clause = _CLAUSE.match(rest)
        if not clause:
            raise ValueError(f"expected one of {', '.join(RELATIONS)} and an object at {rest.strip()!r} in {text!r}")
        parents.append(0 if clause[1] in ("", " and") else len(objects) - 1)
        words.append(clause[2])
        objects.append(SceneObject(clause[3], clause[4]))
        rest = rest[clause.end() :]
    return Scene(tuple(objects), tuple(words), tuple(parents))


def canonical(relation: Relation) -> Relation:
    """Returns one form for equivalent relations: A right of B is B left of A, A below B is B above A."""
    if relation.relation in ("right of", "below"):
        return Relation(relation.object, OPPOSITE[relation.relation], relation.subject)
    return relation


def equivalent(first: Scene, second: Scene) -> bool:
    """Returns whether both scenes have equivalent relations."""
    return set(map(canonical, first.relations)) == set(map(canonical, second.relations))


def is_held_out(relations: Iterable[Relation]) -> bool:
    """Returns whether a prompt with these relations is held out for evaluation: at least one relation is held out.

    For 60 % of the object pairs, one of their four relations is held out (about 80 of 540). No stage uses a prompt
    with such a relation for training, pretraining of the base included.
    """
    return any(map(_held_out, relations))


def _held_out(relation: Relation) -> bool:
    first, second = sorted((relation.subject, relation.object))
    draw = hashlib.blake2b(f"{first}|{second}".encode(), digest_size=2).digest()
    word = relation.relation if relation.subject == first else OPPOSITE[relation.relation]
    return draw[0] * 100 // 256 < HELD_OUT_PAIRS_PERCENT and RELATIONS[draw[1] % 4] == word


def write_scene(rng: np.random.Generator, n_objects: int, held_out: bool = False) -> Scene:
    """Draws a scene of 2 to 4 objects with distinct colours. Raises ValueError for another number of objects.

    held_out: draw from the held-out scenes instead of the training scenes.
    """
    if not 2 <= n_objects <= MAX_OBJECTS:
        raise ValueError(f"a scene has 2 to {MAX_OBJECTS} objects, got {n_objects}")
    colors, n_relations = list(COLORS), n_objects - 1
    while True:
        chosen = rng.permutation(len(colors))[:n_objects]
        objects = tuple(SceneObject(colors[c], SHAPES[rng.integers(len(SHAPES))]) for c in chosen)
        words = tuple(RELATIONS[rng.integers(len(RELATIONS))] for _ in range(n_relations))
        # Every "and" comes before every "that is". After a "that is", the object that an "and" refers to is ambiguous.
        n_and = int(rng.integers(1, n_relations + 1))
        parents = tuple(0 if i < n_and else i for i in range(n_relations))
        scene = Scene(objects, words, parents)
        if is_held_out(scene.relations) == held_out:
            return scene


def mirror(scene: Scene) -> Scene:
    """Returns the mirrored scene: left and right are exchanged."""
    return Scene(scene.objects, tuple(MIRRORED[word] for word in scene.words), scene.parents)


def perturb(scene: Scene, count: int, rng: np.random.Generator) -> tuple[Scene, tuple[Perturbation, ...]]:
    """Changes exactly `count` relations and nothing else. The result contradicts the original.

    The result is not held out, unless the original is. Raises ValueError if the scene has fewer than `count` relations.
    """
    if not 1 <= count <= len(scene.words):
        raise ValueError(f"can change 1 to {len(scene.words)} relations of {scene.text!r}, got {count}")
    held_out = is_held_out(scene.relations)
    while True:
        words = list(scene.words)
        kinds: dict[int, Literal["flip", "turn"]] = {}
        for i in rng.permutation(len(words))[:count]:
            others = [word for word in RELATIONS if word not in (words[i], OPPOSITE[words[i]])]
            kinds[i] = "flip" if rng.random() < 0.6 else "turn"
            words[i] = OPPOSITE[words[i]] if kinds[i] == "flip" else others[rng.integers(2)]
        changed = Scene(scene.objects, tuple(words), scene.parents)
        if held_out or not is_held_out(changed.relations):
            changes = tuple(Perturbation(kinds[i], scene.relations[i], changed.relations[i]) for i in sorted(kinds))
            return changed, changes


def training_prompts(count: int, seed: int, long_fraction: float) -> list[Prompt]:
    """Returns `count` prompts of training. A fraction `long_fraction` of them is long, the others are short."""
    rng = np.random.default_rng(seed)
    sizes = np.where(rng.random(count) < long_fraction, LONG_OBJECTS, 2)
    return [write_scene(rng, int(n)).prompt() for n in sizes]


def held_out_prompts(count: int, long: bool, seed: int) -> list[Prompt]:
    """Returns `count` distinct prompts of evaluation: two objects and one relation, or (long) three and two.

    Raises SettingsError if more than MAX_SHORT_HELD_OUT short prompts are asked for.
    """
    if not long and count > MAX_SHORT_HELD_OUT:
        raise SettingsError(
            f"at most {MAX_SHORT_HELD_OUT} short held-out prompts can be drawn, got {count}: lower "
            "evaluation.short_prompts or policy.evaluation.prompts"
        )
    rng = np.random.default_rng(seed)
    prompts: dict[str, Prompt] = {}
    while len(prompts) < count:
        prompt = write_scene(rng, LONG_OBJECTS if long else 2, held_out=True).prompt()
        prompts.setdefault(prompt.text, prompt)
    return list(prompts.values())


def spans(scene: Scene) -> list[tuple[int, int]]:
    """Returns the word positions [start, stop) of each mention of an object ("a red circle"), in order."""
    starts = [i for i, word in enumerate(scene.text.split()) if word == "a"]
    return [(start, start + 3) for start in starts]

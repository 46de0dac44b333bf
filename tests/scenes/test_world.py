"""The scenes world: sentences, relations and images agree, and the checker reads images correctly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from actors.types import Relation
from conf import SettingsError
from pipelines.scenes.checker import check, inspect
from pipelines.scenes.grammar import (
    COLORS,
    RELATIONS,
    SHAPES,
    Scene,
    SceneObject,
    canonical,
    held_out_prompts,
    is_held_out,
    mirror,
    parse,
    training_prompts,
    write_scene,
)
from pipelines.scenes.render import Placement, holds, lay_out, render, with_double, with_missing, with_recoloured


def scenes(count: int, seed: int = 0) -> list[Scene]:
    """Scenes of two, three and four objects in turn."""
    rng = np.random.default_rng(seed)
    return [write_scene(rng, 2 + i % 3) for i in range(count)]


def test_sentences_are_parsed_to_the_same_scene() -> None:
    assert all(parse(scene.text) == scene for scene in scenes(300))


def test_and_refers_to_the_head_and_that_is_to_the_last_object() -> None:
    star = parse("a red circle left of a blue square and above a green triangle")
    chain = parse("a red circle left of a blue square that is above a green triangle")
    assert star.relations[1] == Relation("red circle", "above", "green triangle")
    assert chain.relations[1] == Relation("blue square", "above", "green triangle")


@pytest.mark.parametrize("text", ["a pink circle", "a red circle near a blue square", "a red circle above a blue cat"])
def test_other_sentences_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"got|expected"):
        parse(text)


def test_training_and_held_out_prompts_share_no_relation() -> None:
    held = {canonical(r) for p in held_out_prompts(100, False, 0) for r in p.relations}
    trained = {canonical(r) for p in training_prompts(3000, 0, 0.5) for r in p.relations}
    assert held
    assert not held & trained


def test_equivalent_relations_are_held_out_together() -> None:
    objects = [f"{color} {shape}" for color, shape in product(COLORS, SHAPES)]
    everything = [
        Relation(subject, word, target)
        for subject, target, word in product(objects, objects, RELATIONS)
        if subject.split()[0] != target.split()[0]
    ]
    held = [relation for relation in everything if is_held_out([relation])]
    assert all(is_held_out([canonical(relation)]) for relation in held)
    assert 0.10 < len(held) / len(everything) < 0.20


def test_images_show_every_relation_of_their_scene() -> None:
    rng = np.random.default_rng(1)
    wrong = [s.text for s in scenes(400, 1) if not check(render(lay_out(s, rng), rng), s.relations).perfect]
    assert len(wrong) <= 2, wrong


def test_a_mirrored_image_satisfies_the_mirrored_scene() -> None:
    rng = np.random.default_rng(2)
    for scene in scenes(60, 2):
        flipped = np.ascontiguousarray(render(lay_out(scene, rng), rng)[:, ::-1])
        assert check(flipped, mirror(scene).relations).perfect


@pytest.mark.parametrize(
    ("dx", "dy", "true"),
    [(16, 0, "left of"), (-16, 0, "right of"), (0, 16, "above"), (0, -16, "below"), (9, 9, None), (32, 16, "left of")],
)
def test_relations_need_a_dominant_axis(dx: int, dy: int, true: str | None) -> None:
    assert [word for word in RELATIONS if holds(word, dx, dy)] == ([true] if true else [])


def test_smeared_and_merged_objects_do_not_count() -> None:
    rng = np.random.default_rng(4)
    scene = parse("a red circle left of a blue square")
    image = render(lay_out(scene, rng), rng)
    red = np.array(COLORS["red"], dtype=np.uint8)
    smeared = image.copy()
    smeared[2:6, 4:60] = red  # a second patch of the colour
    assert "red circle" not in {found.obj.name for found in inspect(smeared)}
    merged = np.full((64, 64, 3), 240, dtype=np.uint8)
    merged[20:32, 8:44] = red  # two squares without a gap
    assert not inspect(merged)
    assert not inspect(np.full((64, 64, 3), 240, dtype=np.uint8))


def test_an_image_with_an_object_that_nobody_asked_for_is_not_perfect() -> None:
    scene, rng = parse("a red circle left of a blue square"), np.random.default_rng(4)
    requested = lay_out(scene, rng)
    corners = [(x, y) for x in (12.0, 52.0) for y in (12.0, 52.0)]
    free = max(corners, key=lambda at: min(np.hypot(one.x - at[0], one.y - at[1]) for one in requested))
    more = Placement(SceneObject("green", "triangle"), *free)
    alone, crowded = (check(render(placed, rng), scene.relations) for placed in (requested, (*requested, more)))
    assert (alone.perfect, alone.unrequested) == (True, ())
    assert (crowded.perfect, crowded.unrequested) == (False, ("green triangle",))
    assert (crowded.present, crowded.outcomes) == (alone.present, alone.outcomes)


def test_corrupted_placements_lack_double_or_change_one_object() -> None:
    rng = np.random.default_rng(5)
    for scene in scenes(30, 5):
        placed = lay_out(scene, rng)
        names = [one.obj.name for one in placed]
        missing = [one.obj.name for one in with_missing(placed, rng)]
        doubled = [one.obj.name for one in with_double(placed, rng)]
        changed = [one.obj.name for one in with_recoloured(placed, rng)]
        assert len(missing) == len(names) - 1
        assert set(missing) < set(names)
        assert len(doubled) == len(names) + 1
        assert set(doubled) == set(names)
        assert sum(new != old for new, old in zip(changed, names, strict=True)) == 1


def test_too_many_short_held_out_prompts_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"at most 120 .* lower evaluation\.short_prompts"):
        held_out_prompts(121, False, 0)

"""The drawn world: sentences and relations determine each other, pictures show what was asked, the checker is right."""

from __future__ import annotations

import numpy as np
import pytest

from actors.types import Relation
from pipelines.pretrain.checker_error import error_rate, truth_scenes
from pipelines.scenes.checker import check, inspect
from pipelines.scenes.grammar import (
    COLORS,
    RELATIONS,
    SHAPES,
    Scene,
    canonical,
    held_out_prompts,
    is_held_out,
    mirror,
    parse,
    training_prompts,
    write_scene,
)
from pipelines.scenes.render import holds, lay_out, render


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [write_scene(rng, 2 + i % 3) for i in range(count)]


def test_sentences_are_read_back_to_the_same_scene() -> None:
    assert all(parse(scene.text) == scene for scene in scenes(300))


def test_a_chain_and_a_star_differ_in_meaning() -> None:
    star = parse("a red circle left of a blue square and above a green triangle")
    chain = parse("a red circle left of a blue square that is above a green triangle")
    assert star.relations[1] == Relation("red circle", "above", "green triangle")
    assert chain.relations[1] == Relation("blue square", "above", "green triangle")


@pytest.mark.parametrize("text", ["a pink circle", "a red circle near a blue square", "a red circle above a blue cat"])
def test_what_the_grammar_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"got|expected"):
        parse(text)


def test_training_and_held_out_prompts_share_no_relation() -> None:
    held = {canonical(r) for p in held_out_prompts(100, False, 0) for r in p.relations}
    trained = {canonical(r) for p in training_prompts(3000, 0, 0.5) for r in p.relations}
    assert held and not held & trained


def test_equal_statements_are_held_out_together() -> None:
    everything = [
        Relation(f"{a} {x}", word, f"{b} {y}")
        for a in COLORS for b in COLORS if a != b for x in SHAPES for y in SHAPES for word in RELATIONS
    ]  # fmt: skip
    held = [relation for relation in everything if is_held_out([relation])]
    assert all(is_held_out([canonical(relation)]) for relation in held)
    assert 0.10 < len(held) / len(everything) < 0.20


def test_pictures_show_every_relation_of_their_scene() -> None:
    rng = np.random.default_rng(1)
    wrong = [s.text for s in scenes(400, 1) if not check(render(lay_out(s, rng), rng), s.relations).perfect]
    assert len(wrong) <= 2, wrong


def test_a_mirrored_picture_satisfies_the_mirrored_scene() -> None:
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


def test_the_checkers_error_rate_on_rendered_pictures_is_under_one_percent() -> None:
    measured = error_rate(*truth_scenes(1500, 3))
    print(f"checker, rendered: {measured.wrong} of {measured.pictures} pictures misread")
    assert measured.rate < 0.01


def test_smeared_doubled_and_merged_objects_do_not_count() -> None:
    rng = np.random.default_rng(4)
    scene = parse("a red circle left of a blue square")
    image = render(lay_out(scene, rng), rng)
    red = np.array(COLORS["red"], dtype=np.uint8)
    stripe = image.copy()
    stripe[2:6, 4:60] = red  # a smear of the object's colour elsewhere
    assert "red circle" not in {found.obj.name for found in inspect(stripe)}
    blob = np.full((64, 64, 3), 240, dtype=np.uint8)
    blob[20:32, 8:44] = red  # two squares grown together
    assert not inspect(blob)
    assert not inspect(np.full((64, 64, 3), 240, dtype=np.uint8))

"""The cases of an evaluation, and what the exact checker says about an image."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from actors.types import Relation
from conf import SettingsError, load
from pipelines.evaluation.cases import draw_cases, prompt_row
from pipelines.evaluation.images import describe_instead, inspect_image
from pipelines.scenes import grammar, render


def test_prompts_are_held_out_distinct_and_of_the_lengths_asked_for() -> None:
    settings = load()
    cases, cfg = draw_cases(settings), settings.evaluation
    prompts = {case.prompt.text: case for case in cases}
    assert all(grammar.is_held_out(case.prompt.relations) for case in cases)
    assert len(cases) == len(prompts) * cfg.images_per_prompt
    assert len({case.seed for case in cases}) == len(cases)
    assert sum(case.long for case in prompts.values()) == cfg.long_prompts
    assert sum(not case.long for case in prompts.values()) == cfg.short_prompts
    assert draw_cases(settings) == cases


def test_no_prompt_is_a_training_prompt() -> None:
    training = {prompt.text for prompt in grammar.training_prompts(3000, 0, 0.5)}
    assert not training & {case.prompt.text for case in draw_cases(load())}


def test_a_row_of_prompts_names_files_objects_and_relations() -> None:
    case = draw_cases(load("scenes", ["evaluation.short_prompts=0", "evaluation.long_prompts=1"]))[0]
    row = cast(dict[str, Any], prompt_row(case))
    assert (row["file_name"], row["base"], row["policy"]) == ("0000.png", "base/0000.png", "policy/0000.png")
    assert (row["text"], row["seed"]) == (case.prompt.text, case.seed)
    assert row["relations"] == [[r.subject, r.relation, r.object] for r in case.prompt.relations]
    first = row["objects"][0]
    assert first["name"] == f"{first['color']} {first['shape']}" == case.prompt.relations[0].subject
    assert tuple(first["rgb"]) == grammar.COLORS[first["color"]]
    assert len(row["objects"]) == len(case.prompt.relations) + 1


@pytest.mark.parametrize(
    ("centres", "description"),
    [
        ({"red circle": (50, 10), "blue square": (10, 12)}, "seen right of"),
        ({"red circle": (10, 50), "blue square": (12, 10)}, "seen below"),
        ({"red circle": (10, 10), "blue square": (40, 42)}, "seen diagonally above, left"),
        ({"red circle": (10, 10)}, "no clean blue square"),
        ({}, "no clean red circle and no clean blue square"),
    ],
)
def test_a_wrong_relation_is_described(centres: dict[str, tuple[float, float]], description: str) -> None:
    assert describe_instead(Relation("red circle", "left of", "blue square"), centres) == description


def test_an_image_of_the_scene_is_perfect() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        scene = grammar.write_scene(rng, 4)
        assessment = inspect_image(render.render(render.lay_out(scene, rng), rng), scene.prompt(), 1.5)
        assert assessment.perfect
        assert (assessment.score, assessment.instead) == (1.5, ("", "", ""))


def test_an_image_of_a_perturbed_scene_is_wrong_in_the_changed_relation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        scene = grammar.write_scene(rng, 4)
        changed, _ = grammar.perturb(scene, 1, rng)
        assessment = inspect_image(render.render(render.lay_out(changed, rng), rng), scene.prompt(), 0.0)
        relations = zip(scene.words, changed.words, assessment.outcomes, assessment.instead, strict=True)
        for wanted, shown, outcome, instead in relations:
            assert (outcome == "right") == (shown == wanted)
            assert instead == ("" if shown == wanted else f"seen {shown}")
            assert (outcome == "reversed") == (shown == grammar.OPPOSITE[wanted])


def test_another_model_than_the_embedded_one_needs_a_file_of_prompts() -> None:
    with pytest.raises(SettingsError, match=r"policy\.held_out_prompts must name a file"):
        draw_cases(load("flux_dev"))


def test_an_evaluation_without_prompts_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"raise evaluation\.short_prompts"):
        draw_cases(load("scenes", ["evaluation.short_prompts=0", "evaluation.long_prompts=0"]))

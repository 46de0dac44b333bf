"""What is evaluated: held-out prompts, and what the pictures are said to show."""

from dataclasses import replace

import numpy as np
import pytest

from actors.policy.lora import read_lora, save_lora
from actors.types import Relation
from conf import load
from conf.flux import FluxSettings
from pipelines.evaluation.cases import draw_cases, prompt_row
from pipelines.evaluation.images import inspect_image, seen_instead
from pipelines.scenes import grammar, render


def test_every_prompt_is_held_out_and_distinct_and_the_two_lengths_are_as_asked():
    settings = load()
    cases = draw_cases(settings)
    own = settings.evaluation
    prompts = {case.prompt.text: case for case in cases}
    assert all(grammar.is_held_out(case.prompt.relations) for case in cases)
    assert len(cases) == len(prompts) * own.images_per_prompt and len({case.seed for case in cases}) == len(cases)
    assert sum(case.long for case in prompts.values()) == own.long_prompts
    assert sum(not case.long for case in prompts.values()) == own.short_prompts
    training = grammar.training_prompts(3000, 0, 0.5)
    assert not {prompt.text for prompt in training} & prompts.keys()
    assert draw_cases(settings) == cases


def test_a_prompts_row_names_files_objects_and_relations():
    case = draw_cases(load("scenes", ["evaluation.short_prompts=0", "evaluation.long_prompts=1"]))[0]
    row = prompt_row(case)
    assert row["file_name"] == "0000.png" and row["base"] == "base/0000.png" and row["policy"] == "policy/0000.png"
    assert row["text"] == case.prompt.text and row["seed"] == case.seed
    assert row["relations"] == [[r.subject, r.relation, r.object] for r in case.prompt.relations]
    first = row["objects"][0]
    assert first["name"] == f"{first['color']} {first['shape']}" == case.prompt.relations[0].subject
    assert tuple(first["rgb"]) == grammar.COLORS[first["color"]]
    assert len(row["objects"]) == len(case.prompt.relations) + 1


def test_what_is_seen_instead_is_said_in_words():
    left = Relation("red circle", "left of", "blue square")
    assert seen_instead(left, {"red circle": (50, 10), "blue square": (10, 12)}) == "seen right of"
    assert seen_instead(left, {"red circle": (10, 50), "blue square": (12, 10)}) == "seen below"
    assert seen_instead(left, {"red circle": (10, 10), "blue square": (40, 42)}) == "seen diagonally above, left"
    assert seen_instead(left, {"red circle": (10, 10)}) == "no clean blue square"
    assert seen_instead(left, {}) == "no clean red circle and no clean blue square"


def test_a_look_tells_right_from_wrong_relations():
    rng = np.random.default_rng(0)
    for _ in range(40):
        scene = grammar.write_scene(rng, 4)
        shown = inspect_image(render.render(render.lay_out(scene, rng), rng), scene.prompt(), 1.5)
        assert shown.perfect and shown.score == 1.5 and shown.instead == ("", "", "")
        changed, _ = grammar.perturb(scene, 1, rng)
        wrong = inspect_image(render.render(render.lay_out(changed, rng), rng), scene.prompt(), 0.0)
        for was, now, outcome, instead in zip(scene.words, changed.words, wrong.outcomes, wrong.instead, strict=True):
            assert (outcome, instead) == (("right", "") if was == now else (outcome, f"seen {now}"))
            assert (outcome == "reversed") == (now == grammar.OPPOSITE[was])


def test_an_exported_lora_is_read_back_as_the_policys_own(tmp_path):
    import torch

    settings = replace(FluxSettings(), lora_rank=4, lora_alpha=8)
    state = {
        "transformer_blocks.0.attn.to_q.lora_A.weight": torch.randn(4, 96),
        "transformer_blocks.0.attn.to_q.lora_B.weight": torch.randn(96, 4),
    }
    save_lora(state, settings, tmp_path)
    found = read_lora(tmp_path, settings)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_another_world_needs_a_file_of_prompts():
    with pytest.raises(ValueError, match=r"policy\.held_out_prompts must name a file"):
        draw_cases(load("flux_dev"))
